"""The shipped cluster files: Ray takes them, and they are safe as they are."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "cluster.yaml", *sorted((ROOT / "clusters").glob("*.yaml"))]
KUBERAY = ROOT / "clusters" / "kuberay.yaml"
LAUNCHED = [file for file in FILES if file != KUBERAY]
"""Those that `ray up` reads."""

# The fields that a RayCluster may have, by KubeRay 1.6.2's generated reference of its custom resource:
# https://github.com/ray-project/kuberay/blob/0a9eabde561ab59ab4bbe626072c359da9214484/docs/reference/api.md, of which
# helm-chart/kuberay-operator/crds/ray.io_rayclusters.yaml there is the schema. No API server was asked.
CLUSTER_SPEC = {
    "autoscalerOptions",
    "authOptions",
    "enableInTreeAutoscaling",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "headServiceAnnotations",
    "managedBy",
    "rayVersion",
    "suspend",
    "upgradeStrategy",
    "workerGroupSpecs",
}
AUTHENTICATION = {"enableK8sTokenAuth", "mode", "secretName"}
HEAD_GROUP = {"enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template"}
WORKER_GROUP = {
    "groupName",
    "idleTimeoutSeconds",
    "labels",
    "maxReplicas",
    "minReplicas",
    "numOfHosts",
    "rayStartParams",
    "replicas",
    "resources",
    "scaleStrategy",
    "suspend",
    "template",
}
AUTOSCALER = {
    "env",
    "envFrom",
    "idleTimeoutSeconds",
    "image",
    "imagePullPolicy",
    "resources",
    "securityContext",
    "upscalingMode",
    "version",
    "volumeMounts",
}


def name(file: Path) -> str:
    return file.stem


def documents(file: Path) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all(file.read_text()))


def launched(file: Path) -> dict[str, Any]:
    [config] = documents(file)
    return config


def ray_cluster() -> dict[str, Any]:
    [cluster] = [document for document in documents(KUBERAY) if document["kind"] == "RayCluster"]
    return cluster


def commands(config: Any) -> list[str]:
    """Every shell command anywhere in a file for `ray up`."""
    if isinstance(config, dict):
        return [
            command
            for key, value in config.items()
            for command in (value if key.endswith("_commands") else commands(value))
        ]
    return []


def starts(config: dict[str, Any]) -> list[str]:
    return [command for command in commands(config) if re.search(r"\bray start\b", command)]


def pinned(package: str) -> str:
    [version] = re.findall(rf"^{re.escape(package)}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return version


def test_what_is_shipped() -> None:
    assert [name(file) for file in FILES] == ["cluster", "gcp", "kuberay", "on-premises"]
    assert [launched(file)["provider"]["type"] for file in LAUNCHED] == ["aws", "gcp", "local"]


@pytest.mark.parametrize("file", LAUNCHED, ids=name)
def test_ray_takes_it(file: Path) -> None:
    pytest.importorskip("jsonschema", reason="Ray checks its files with jsonschema")
    validate_config(prepare_config(launched(file)))


@pytest.mark.parametrize("file", LAUNCHED, ids=name)
def test_ray_would_refuse_a_slip_in_it(file: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="Ray checks its files with jsonschema")
    with pytest.raises(jsonschema.ValidationError, match="idle_minutes"):
        validate_config(prepare_config(launched(file) | {"idle_minutes": 5}))


@pytest.mark.parametrize("file", LAUNCHED, ids=name)
def test_every_start_asks_for_the_token(file: Path) -> None:
    config = launched(file)
    assert len(starts(config)) == 2
    for command in starts(config):
        assert re.search(r"\bRAY_AUTH_MODE=token\b.*\bray start\b", command, re.DOTALL), command


@pytest.mark.parametrize("file", LAUNCHED, ids=name)
def test_the_dashboard_listens_on_the_head_alone(file: Path) -> None:
    heads = [command for command in starts(launched(file)) if "--head" in command]
    assert len(heads) == 1
    assert re.findall(r"--dashboard-host[= ](\S+)", heads[0]) == ["127.0.0.1"]


@pytest.mark.parametrize("file", FILES, ids=name)
def test_nothing_listens_everywhere(file: Path) -> None:
    values = re.sub(r"#.*", "", file.read_text())  # comments may say what the defaults are
    assert not re.search(r"(?<!\d)0\.0\.0\.0", values)
    assert "::/0" not in values


@pytest.mark.parametrize("file", LAUNCHED, ids=name)
def test_the_token_travels_as_a_file_that_nobody_else_reads(file: Path) -> None:
    config = launched(file)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("chmod 600 ~/.ray/auth_token" in command for command in config["setup_commands"])


@pytest.mark.parametrize("file", FILES, ids=name)
def test_no_token_in_it(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"[0-9a-fA-F]{32,}", text), "a token is 64 hex digits"
    assert "RAY_AUTH_TOKEN=" not in text
    assert not any(document["kind"] == "Secret" for document in documents(file) if "kind" in document)


@pytest.mark.parametrize("file", LAUNCHED, ids=name)
def test_no_way_in_but_ssh(file: Path) -> None:
    """Ray makes a group on AWS that opens ssh and the nodes to each other; IpPermissions would add to that."""
    assert "IpPermissions" not in launched(file)["provider"].get("security_group", {})


@pytest.mark.parametrize("file", LAUNCHED, ids=name)
def test_a_dead_node_is_noticed_within_20_seconds(file: Path) -> None:
    [head] = [command for command in starts(launched(file)) if "--head" in command]
    assert noticed_after(dict(re.findall(r"\b(RAY_health_check_\w+)=(\d+)", head))) < 20_000


def noticed_after(settings: dict[str, str]) -> int:
    """Milliseconds, at most: each failed check takes its timeout, and a pause before it."""
    period, timeout = (int(settings[f"RAY_health_check_{key}_ms"]) for key in ["period", "timeout"])
    return int(settings["RAY_health_check_failure_threshold"]) * (period + timeout)


@pytest.mark.parametrize("file", LAUNCHED, ids=name)
def test_the_versions_are_those_of_constraints(file: Path) -> None:
    installs = [command for command in commands(launched(file)) if "pip install" in command]
    assert installs
    for command in installs:
        assert "--constraint ~/rfray/constraints.txt" in command
    assert Version(pinned("ray")) >= Version("2.54")  # CVE-2023-48022, CVE-2025-62593, CVE-2026-27482


@pytest.mark.parametrize("file", LAUNCHED, ids=name)
def test_what_travels_is_enough_to_install_and_no_more(file: Path) -> None:
    mounts = launched(file)["file_mounts"]
    ours = {target: source for target, source in mounts.items() if not source.startswith("~")}
    assert set(ours.values()) == {"rfray", "experiments", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    for target, source in ours.items():
        assert target == f"~/rfray/{source}"
        assert (ROOT / source).exists()
    for pattern in launched(file)["rsync_exclude"]:
        assert not list((ROOT / "rfray").rglob(pattern.strip("/"))) or pattern == "__pycache__"  # rfray/data must go


@pytest.mark.parametrize("file", LAUNCHED, ids=name)
def test_its_commands_are_shell(file: Path) -> None:
    if not (bash := shutil.which("bash")):
        pytest.skip("no bash here")
    for command in commands(launched(file)):
        done = subprocess.run([bash, "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", LAUNCHED, ids=name)
def test_the_number_of_workers_has_an_end(file: Path) -> None:
    config = prepare_config(launched(file))
    assert 0 < config["idle_timeout_minutes"] <= 30
    workers = [kind for key, kind in config["available_node_types"].items() if key != config["head_node_type"]]
    for kind in workers:
        assert 0 <= kind["min_workers"] <= kind["max_workers"] <= config["max_workers"]
        assert kind["resources"]["GPU"] >= 1


def test_the_extras_install_what_launching_takes() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for extra, file in [
        ("aws", "cluster.yaml"),
        ("gcp", "clusters/gcp.yaml"),
        ("cluster", "clusters/on-premises.yaml"),
    ]:
        assert re.search(rf"^{extra} = \[", text, re.MULTILINE)
        assert f"rfray[{extra}]" in (ROOT / file).read_text()


def test_the_head_on_premises_takes_the_address_that_the_file_gives_it(tmp_path: Path) -> None:
    config = launched(ROOT / "clusters" / "on-premises.yaml")
    [head] = [command for command in starts(config) if "--head" in command]
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(config))  # as Ray's launcher writes it there
    [address] = re.findall(r"--node-ip-address=(\S+ .+?\))", head.replace("\n", " "))
    said = subprocess.run(["bash", "-c", f"echo {address}"], env={**os.environ, "HOME": str(tmp_path)}, text=True,
                          capture_output=True, check=True)  # fmt: skip
    assert said.stdout.strip() == config["provider"]["head_ip"]


def test_the_manifest_has_fields_that_kuberay_knows() -> None:
    cluster = ray_cluster()
    spec = cluster["spec"]
    assert cluster["apiVersion"] == "ray.io/v1"
    assert set(spec) <= CLUSTER_SPEC
    assert set(spec["authOptions"]) <= AUTHENTICATION
    assert set(spec["headGroupSpec"]) <= HEAD_GROUP
    assert {"rayStartParams", "template"} <= set(spec["headGroupSpec"])
    assert set(spec["autoscalerOptions"]) <= AUTOSCALER
    for group in spec["workerGroupSpecs"]:
        assert set(group) <= WORKER_GROUP
        assert {"groupName", "maxReplicas", "minReplicas", "template"} <= set(group)
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        # Kubernetes takes no numbers here: `map[string]string`
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        for container in group["template"]["spec"]["containers"]:
            assert all(isinstance(variable["value"], str) for variable in container.get("env", []))


def test_the_manifest_is_safe() -> None:
    spec = ray_cluster()["spec"]
    head = spec["headGroupSpec"]
    [container] = head["template"]["spec"]["containers"]
    assert spec["authOptions"] == {"mode": "token"}  # the operator makes the secret, and sets RAY_AUTH_MODE everywhere
    assert spec["rayVersion"] == pinned("ray")
    assert f"FROM rayproject/ray:{pinned('ray')}-" in KUBERAY.read_text()
    assert head["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    assert head["serviceType"] == "ClusterIP"
    assert not head.get("enableIngress", False)
    assert noticed_after({variable["name"]: variable["value"] for variable in container["env"]}) < 20_000
    for probe in ["readinessProbe", "livenessProbe"]:
        assert "exec" in container[probe], "one from outside would not reach 127.0.0.1"


def test_only_pods_of_the_cluster_get_in() -> None:
    [policy] = [document for document in documents(KUBERAY) if document["kind"] == "NetworkPolicy"]
    ours = {"matchLabels": {"ray.io/cluster": ray_cluster()["metadata"]["name"]}}
    assert policy["spec"]["podSelector"] == ours
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": ours}]}]


def test_all_pods_see_the_same_folder() -> None:
    spec = ray_cluster()["spec"]
    [claim] = [document for document in documents(KUBERAY) if document["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        assert {"name": "shared", "mountPath": "/shared"} in pod["containers"][0]["volumeMounts"]
        assert {"name": "shared", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}} in pod["volumes"]


def test_the_token_is_its_users_alone(tmp_path: Path) -> None:
    texts = [file.read_text() for file in (ROOT / "README.md", *FILES)]
    commands = {
        line[0] for text in texts if (line := re.findall(r"^[# ]*(.*get-auth-token.*?) +#", text, re.MULTILINE))
    }
    (command,) = commands  # the same everywhere
    (tmp_path / ".ray").mkdir(mode=0o755)
    for _ in range(2):
        subprocess.run(
            ["sh", "-c", command],
            check=True,
            env={"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        )
        token = tmp_path / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o777 == 0o600
        token.chmod(0o644)  # of one that was made before
