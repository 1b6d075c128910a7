"""`ray up cluster.yaml` against a simulated EC2 (moto, on 127.0.0.1): up to where it waits for ssh, and one worker."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.util import prepare_config
from ruamel.yaml import YAML

pytest.importorskip("moto", reason="moto simulates EC2")
boto3 = pytest.importorskip("boto3", reason="Ray talks to AWS through boto3")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FILE = ROOT / "cluster.yaml"
REGION = "us-west-2"
TOKEN = "5ec2e7" * 10 + "cafe"
"""Of no cluster: 64 hex digits, as Ray's are."""


class Account(NamedTuple):
    """A simulated AWS account, and somebody's home folder."""

    home: Path
    environment: dict[str, str]

    def client(self, service: str) -> Any:
        return boto3.client(service, region_name=REGION, endpoint_url=self.environment["AWS_ENDPOINT_URL"])

    def instances(self, node_type: str) -> list[dict[str, Any]]:
        found = self.client("ec2").describe_instances(
            Filters=[{"Name": "tag:ray-user-node-type", "Values": [node_type]}]
        )
        return [instance for reservation in found["Reservations"] for instance in reservation["Instances"]]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """An account that has had a Ray cluster before: Ray waits 30 s after it has made its role."""
    from moto.server import ThreadedMotoServer

    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    # the simulated machines have addresses that belong to others: nobody may knock there
    (home / "bin").mkdir()
    (home / "bin" / "ssh").write_text(f'#!/bin/sh\necho "$@" >> {home}/ssh.log\nexit 255\n')
    (home / "bin" / "ssh").chmod(0o755)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(home / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "simulated",
            "AWS_SECRET_ACCESS_KEY": "simulated",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.chdir(ROOT)
        found = Account(home, dict(os.environ))
        iam = found.client("iam")
        iam.create_role(RoleName="ray-autoscaler-v1", AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName="ray-autoscaler-v1")
        iam.add_role_to_instance_profile(InstanceProfileName="ray-autoscaler-v1", RoleName="ray-autoscaler-v1")
        client_cache.cache_clear()
        resource_cache.cache_clear()
        yield found
    client_cache.cache_clear()
    resource_cache.cache_clear()
    server.stop()


@pytest.fixture(scope="module")
def said(account: Account) -> str:
    """What `ray up` has said until it knocked at the head's ssh for the first time."""
    log = account.home / "up.log"
    with log.open("w") as out:
        command = ["ray", "up", "-y", "cluster.yaml", "--no-config-cache"]
        up = subprocess.Popen(command, cwd=ROOT, env=account.environment, stdout=out, stderr=out)
        try:
            until = time.monotonic() + 120
            while not (account.home / "ssh.log").exists() and up.poll() is None and time.monotonic() < until:
                time.sleep(0.2)
        finally:
            up.kill()
            up.wait()
    return log.read_text()


@pytest.fixture(scope="module")
def head(account: Account, said: str) -> dict[str, Any]:
    assert (account.home / "ssh.log").exists(), said
    [found] = account.instances("head")
    return found


@pytest.fixture(scope="module")
def worker(account: Account, head: dict[str, Any]) -> dict[str, Any]:
    """Started as the head's autoscaler does it, by what `ray up` makes of the file."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

    config = bootstrap_aws(prepare_config(YAML(typ="safe").load(FILE.read_text())))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: "gpu"}
    provider.create_node(config["available_node_types"]["gpu"]["node_config"], tags, 1)
    [found] = account.instances("gpu")
    return found


def test_the_machines_are_the_ones_of_the_file(head: dict[str, Any], worker: dict[str, Any]) -> None:
    assert (head["InstanceType"], worker["InstanceType"]) == ("m7i.xlarge", "g6.2xlarge")
    assert "InstanceLifecycle" not in head
    assert worker["InstanceLifecycle"] == "spot"
    assert head["Placement"]["AvailabilityZone"].startswith(REGION)


def test_nothing_is_left_to_fill_in(head: dict[str, Any], worker: dict[str, Any]) -> None:
    """EC2 takes `resolve:ssm:<parameter>` for an image; moto keeps the words, and looks nothing up."""
    wanted = "resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
    assert head["ImageId"] == worker["ImageId"] == wanted
    assert "FILL IN" not in FILE.read_text()


def test_only_ssh_is_let_in(account: Account, head: dict[str, Any], worker: dict[str, Any]) -> None:
    assert head["SecurityGroups"] == worker["SecurityGroups"]
    [group] = head["SecurityGroups"]
    [found] = account.client("ec2").describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
    rules = {rule["IpProtocol"]: rule for rule in found["IpPermissions"]}
    assert set(rules) == {"tcp", "-1"}
    assert (rules["tcp"]["FromPort"], rules["tcp"]["ToPort"]) == (22, 22)
    assert rules["-1"]["IpRanges"] == rules["-1"]["Ipv6Ranges"] == []
    assert [pair["GroupId"] for pair in rules["-1"]["UserIdGroupPairs"]] == [group["GroupId"]]


def test_metadata_asks_for_a_session_token(head: dict[str, Any], worker: dict[str, Any]) -> None:
    assert head["MetadataOptions"]["HttpTokens"] == worker["MetadataOptions"]["HttpTokens"] == "required"


def test_the_disks_are_as_said_and_go_with_the_machine(
    account: Account, head: dict[str, Any], worker: dict[str, Any]
) -> None:
    for machine, size in [(head, 300), (worker, 150)]:
        [mapping] = machine["BlockDeviceMappings"]
        [volume] = account.client("ec2").describe_volumes(VolumeIds=[mapping["Ebs"]["VolumeId"]])["Volumes"]
        assert (volume["Size"], volume["VolumeType"]) == (size, "gp3")
        assert mapping["Ebs"]["DeleteOnTermination"]


def test_the_tags_say_whose_they_are(head: dict[str, Any], worker: dict[str, Any]) -> None:
    for machine, kind in [(head, "head"), (worker, "worker")]:
        tags = {tag["Key"]: tag["Value"] for tag in machine["Tags"]}
        assert (tags["ray-cluster-name"], tags["ray-node-type"]) == ("rfray", kind)


def test_the_private_key_is_its_owners_alone(account: Account, head: dict[str, Any]) -> None:
    [key] = (account.home / ".ssh").glob("*.pem")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert head["KeyName"] == key.stem
    assert f"-i {key}" in (account.home / "ssh.log").read_text()


def test_only_the_head_has_a_role(head: dict[str, Any], worker: dict[str, Any]) -> None:
    assert head["IamInstanceProfile"]["Arn"].endswith("/ray-autoscaler-v1")
    assert "IamInstanceProfile" not in worker


def test_the_token_is_nowhere_but_in_its_file(
    account: Account, head: dict[str, Any], worker: dict[str, Any], said: str
) -> None:
    ec2 = account.client("ec2")
    for machine in [head, worker]:
        shown = ec2.describe_instance_attribute(InstanceId=machine["InstanceId"], Attribute="userData")
        assert not shown["UserData"]
        assert TOKEN not in json.dumps(machine, default=str)
    assert TOKEN not in said
    assert TOKEN not in (account.home / "ssh.log").read_text()


def test_workers_get_the_image_that_the_head_has(tmp_path: Path) -> None:
    """The command by which the head tells its autoscaler, with a metadata service that says ami-0123."""
    if not (bash := shutil.which("bash")):
        pytest.skip("no bash here")
    config = YAML(typ="safe").load(FILE.read_text())
    [command] = [command for command in config["head_start_ray_commands"] if "meta-data" in command]
    (tmp_path / "bin").mkdir()
    curl = tmp_path / "bin" / "curl"
    curl.write_text(
        '#!/bin/sh\ncase "$*" in *api/token) echo session;; '
        "*'X-aws-ec2-metadata-token: session'*meta-data/ami-id) echo ami-0123;; *) exit 22;; esac\n"
    )
    curl.chmod(0o755)
    told = tmp_path / "ray_bootstrap_config.yaml"
    told.write_text(json.dumps(config))
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{curl.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([bash, "-c", command], env=environment, check=True)
    after = json.loads(told.read_text())["available_node_types"]
    assert [kind["node_config"]["ImageId"] for kind in after.values()] == ["ami-0123", "ami-0123"]
