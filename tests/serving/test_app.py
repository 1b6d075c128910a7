"""Every endpoint and every kind of bad upload, in this process: real models, real HTTP messages, no Ray."""

import asyncio
import io
import resource
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rfray.data import decoder_process
from rfray.data.decoding import decode
from rfray.models.bundle import LoadedBundle, detect, load_bundle
from rfray.models.grad_cam import heatmap_jpeg
from rfray.store.run_dir import RunDir

pytest.importorskip("ray.serve", reason="needs pip install 'rfray[serve]'")

from fastapi import HTTPException
from starlette.testclient import TestClient

from rfray.errors import InputError
from rfray.serving.app import Endpoints, page
from rfray.serving.hosts import check_hosts
from rfray.serving.models import LoadedModels
from rfray.serving.uploads import Limits
from tests.serving.clock import run_in_no_time

USUAL = Limits()
KIND = "multipart/form-data; boundary=y"
SMALL = Limits(files=3, file_bytes=20_000, request_bytes=50_000, upload_seconds=0.2, answer_seconds=0.2)


@pytest.fixture(scope="module")
def bundle(run: RunDir) -> LoadedBundle:
    return load_bundle(run.path)


@pytest.fixture(scope="module")
def models(run: RunDir) -> LoadedModels:
    return LoadedModels(str(run.path), 1)


def app(bundle: LoadedBundle, models: Any, limits: Limits = USUAL) -> Any:
    return Endpoints(bundle.ensemble, bundle.geometries, models, 1, limits).app()


@pytest.fixture(scope="module")
def client(bundle: LoadedBundle, models: LoadedModels) -> Iterator[TestClient]:
    with TestClient(app(bundle, models)) as client:
        yield client


@pytest.fixture
def small(bundle: LoadedBundle, models: LoadedModels) -> Iterator[TestClient]:
    with TestClient(app(bundle, models, SMALL)) as client:
        yield client


def uploads(*files: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", file) for file in files]


def named(images: list[Path]) -> list[tuple[str, bytes]]:
    return [(str(image), image.read_bytes()) for image in images]


def test_it_says_what_detect_says(client: TestClient, bundle: LoadedBundle, images: list[Path]) -> None:
    answer = client.post("/predict", files=uploads(*named(images)))
    assert answer.status_code == 200
    ((table, _),) = detect(bundle, [str(image) for image in images], 64, 1)
    scores = table[bundle.ensemble.members].to_numpy()
    said = answer.json()["images"]
    assert [one["name"] for one in said] == [str(image) for image in images]
    for number, one in enumerate(said):
        assert list(one) == ["name", "p_fake", "verdict", "members", "reason"]
        assert list(one["members"]) == bundle.ensemble.members
        assert list(one["members"].values()) == pytest.approx(scores[number].tolist(), abs=1e-6)
        assert one["p_fake"] == pytest.approx(scores[number].mean(), abs=1e-6)
        assert one["verdict"] == ("fake" if one["p_fake"] >= bundle.ensemble.threshold else "real")
        assert one["reason"] == ""


def test_a_field_of_any_name_will_do(client: TestClient, images: list[Path]) -> None:
    assert client.post("/predict", files={"picture": images[0].read_bytes()}).status_code == 200


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG of so many black pixels, in a few kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(out, "JPEG")
    return out.getvalue()


UNREADABLE = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello, world", "not an image of a known format"),
    "page": (b"<script>alert(1)</script>", "not an image of a known format"),
    "truncated": (jpeg()[:-20], "truncated JPEG"),
    "bomb": (png(20_000, 20_000), "20000x20000 is over 50 megapixels"),
    "nothing in it": (png(8, 8), "truncated"),
}


def test_a_picture_that_takes_too_long_has_its_reason(
    client: TestClient, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "SECONDS", 0.1)
    data = png(7000, 7000, zlib.compress(bytes(7000 * 876)))  # half a second of a core
    answer = client.post("/predict", files=uploads(("large", data), *named(images[:2])))
    assert [one["reason"] for one in answer.json()["images"]] == ["took over 0.1 s to decode", "", ""]
    assert client.post("/explain", files=uploads(("large", data))).json() == {
        "detail": "large: took over 0.1 s to decode"
    }


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_is_no_picture_is_refused_with_its_reason(client: TestClient, kind: str) -> None:
    data, reason = UNREADABLE[kind]
    answer = client.post("/predict", files=uploads((kind, data)))
    assert answer.status_code == 422
    said = answer.json()
    assert reason in said["detail"]
    assert said["detail"].startswith(f"{kind}: ")
    (one,) = said["images"]
    assert reason in one["reason"]
    assert (one["p_fake"], one["verdict"], one["members"]) == (None, None, {})
    assert client.post("/explain", files=uploads((kind, data))).status_code == 422


def test_one_bad_file_costs_its_own_verdict_alone(client: TestClient, images: list[Path]) -> None:
    good = images[0].read_bytes()
    answer = client.post("/predict", files=uploads(("a", good), ("b", b"hello"), ("c", good)))
    assert answer.status_code == 200
    first, bad, last = answer.json()["images"]
    assert first["p_fake"] == pytest.approx(last["p_fake"], abs=1e-6)
    assert bad["reason"] == "not an image of a known format"


@pytest.mark.parametrize(
    ("status", "reason", "request_of"),
    [
        (415, "the content type is not given", {"content": b""}),
        (415, "image/jpeg; send multipart/form-data", {"content": jpeg(), "headers": {"content-type": "image/jpeg"}}),
        (400, "no file in the request", {"files": {"files": (None, "text")}}),
        (400, "Missing boundary", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
        (400, "", {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}}),
        (400, "no file", {"content": b"--y\r\n", "headers": {"content-type": "multipart/form-data; boundary=y"}}),
        (400, "Maximum number of files is 3", {"files": uploads(*[("a", b"a")] * 4)}),
        (413, "big has 0.02001 MB, which is over 0.02 MB", {"files": uploads(("big", bytes(20_010)))}),
        (413, "the request has 0.06", {"files": uploads(*[("a", bytes(20_000))] * 3)}),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/explain"])
def test_a_request_that_can_not_be_answered_hears_why(
    small: TestClient, path: str, status: int, reason: str, request_of: dict[str, Any]
) -> None:
    answer = small.post(path, **request_of)
    assert answer.status_code == status
    assert reason in answer.json()["detail"]


def spoken(app: Any, chunks: list[bytes], ends: bool = True, **headers: str) -> list[dict[str, Any]]:
    """What the application sends to a client that sends these parts of a body, and then ends or falls silent."""
    said: list[dict[str, Any]] = []

    async def go() -> None:
        waiting = list(chunks)

        async def receive() -> dict[str, Any]:
            if waiting:
                body = waiting.pop(0)
                return {"type": "http.request", "body": body, "more_body": bool(waiting) or not ends}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        named = {"content-type": "multipart/form-data; boundary=y", **headers}
        scope = {
            "type": "http", "method": "POST", "path": "/predict", "query_string": b"", "http_version": "1.1",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        }  # fmt: skip
        await app(scope, receive, send)

    asyncio.run(asyncio.wait_for(go(), 10))
    return said


def part(data: bytes) -> bytes:
    return b'--y\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + data


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-7", "unicode_escape", "undefined", '"latin-1"'])
def test_no_charset_but_utf_8_is_read(bundle: LoadedBundle, models: LoadedModels, charset: str) -> None:
    said = spoken(app(bundle, models, SMALL), [part(b"x")], **{"content-type": f"{KIND}; charset={charset}"})
    assert said[0]["status"] == 415
    assert b"only utf-8 is read" in said[1]["body"]


@pytest.mark.parametrize("more", ["; a=" + '";' * 300, "; a=b" * 200])
def test_a_content_type_that_takes_long_to_parse_is_refused(
    bundle: LoadedBundle, models: LoadedModels, more: str
) -> None:
    said = spoken(app(bundle, models, SMALL), [part(b"x")], **{"content-type": KIND + more})
    assert said[0]["status"] == 415


@pytest.mark.parametrize("path", ["/predict", "/explain"])
@pytest.mark.parametrize("refused", ["folder", "size"])
def test_where_the_disk_takes_no_large_file_small_ones_go_on(
    client: TestClient, path: str, refused: str, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone") if refused == "folder" else str(tmp_path))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if refused == "size" else before[0], before[1]))
        large = client.post(path, files=uploads(("large.png", bytes(2_000_000))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert large.status_code == 503
    retry_after(large, "the server has no room for files over 1 MB")
    assert client.post(path, files=uploads(*named(images[:1]))).status_code == 200
    assert list(tmp_path.iterdir()) == []


def test_a_body_without_a_length_is_read_no_further_than_the_limit(bundle: LoadedBundle, models: LoadedModels) -> None:
    said = spoken(app(bundle, models, SMALL), [part(bytes(10_000)), *[bytes(10_000)] * 9])
    assert said[0]["status"] == 413
    assert b"the request is over 0.05 MB" in said[1]["body"]


def test_an_upload_that_does_not_go_on_is_given_up(bundle: LoadedBundle, models: LoadedModels) -> None:
    said = spoken(app(bundle, models, SMALL), [part(b"x")], ends=False)
    assert said[0]["status"] == 408
    assert b"took longer than 0.2 s" in said[1]["body"]


@pytest.mark.parametrize(
    ("sent", "pause", "status", "said"),
    [
        (50, 5, 408, b"slower than 100 bytes a second"),  # 10 bytes a second
        (5000, 5, 422, b"not an image"),  # 1000
        (20_000, 9, 408, b"took longer than 60 s"),
    ],
)
@pytest.mark.parametrize("kind", [KIND, "image/jpeg"])
def test_an_upload_that_hardly_goes_on_is_given_up(
    bundle: LoadedBundle, models: LoadedModels, kind: str, sent: int, pause: float, status: int, said: bytes
) -> None:
    limits, clock = Limits(upload_rate=100), 0.0

    async def go() -> None:
        nonlocal clock
        body = [part(bytes(sent)), *[bytes(sent)] * 6, b"\r\n--y--\r\n"]

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(pause)
            return {"type": "http.request", "body": body.pop(0), "more_body": bool(body)}

        answer = []

        async def send(message: dict[str, Any]) -> None:
            answer.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/predict", "query_string": b"", "http_version": "1.1",
            "headers": [(b"content-type", kind.encode())],
        }  # fmt: skip
        await app(bundle, models, limits)(scope, receive, send)
        clock = asyncio.get_running_loop().time()
        refused = kind != KIND  # hears so after the rest, for which there is no more time than for an upload
        assert answer[0]["status"] == (415 if refused else status)
        assert refused or said in answer[1]["body"]

    run_in_no_time(go())
    head = len(part(b"")) / 100  # what is worth 10 s and the head of the part and twice 50 bytes
    assert clock == pytest.approx({408: 11 + head if sent == 50 else 60, 422: 40}[status], abs=0.01)


def retry_after(answer: Any, reason: str) -> int:
    assert answer.status_code == 503
    assert reason in answer.json()["detail"]
    return int(answer.headers["retry-after"])


@pytest.mark.parametrize("limits", [Limits(images=1), Limits(held_bytes=7000)])
def test_a_full_server_says_when_to_come_again_and_is_not_full_for_ever(
    bundle: LoadedBundle, models: LoadedModels, images: list[Path], limits: Limits
) -> None:
    (one, two) = named(images[:2])  # 3 kB each
    with TestClient(app(bundle, models, limits)) as client:
        for _ in range(2):
            assert retry_after(client.post("/predict", files=uploads(one, two, two)), "the server is busy") == 1
            assert client.post("/predict", files=uploads(one)).status_code == 200
        assert "rfray_waiting_images 0.0" in client.get("/metrics").text


@pytest.mark.parametrize("dawdlers", [1, 5])
def test_uploads_that_hold_much_for_long_give_way_to_others(
    bundle: LoadedBundle, models: LoadedModels, dawdlers: int
) -> None:
    said: dict[str, list[dict[str, Any]]] = {}

    async def go() -> None:
        asked = app(bundle, models, Limits(held_bytes=500_000))

        async def ask(name: str, chunks: list[bytes], ends: bool) -> None:
            waiting, said[name] = list(chunks), []

            async def receive() -> dict[str, Any]:
                if not waiting:
                    await asyncio.Event().wait()
                return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting) or not ends}

            async def send(message: dict[str, Any]) -> None:
                said[name].append(message)

            scope = {
                "type": "http", "method": "POST", "path": "/predict", "query_string": b"", "http_version": "1.1",
                "headers": [(b"content-type", KIND.encode())],
            }  # fmt: skip
            await asked(scope, receive, send)

        tasks = []
        for number in range(dawdlers):
            tasks.append(asyncio.create_task(ask(f"dawdler {number}", [part(bytes(480_000 // dawdlers))], ends=False)))
            await asyncio.sleep(1)
        for number in range(2):  # there is room for both when one has given way
            field = b'--y\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + bytes(30_000) + b"\r\n"
            body = [field[:9000], field[9000:] + part(b""), b"\r\n--y--\r\n"]
            await ask(f"another {number}", body, ends=True)
        await asyncio.gather(*tasks)

    run_in_no_time(go())
    statuses = {name: messages[0]["status"] for name, messages in said.items()}
    others = {f"dawdler {number}": 408 for number in range(1, dawdlers)}
    assert statuses == {"dawdler 0": 503, **others, "another 0": 422, "another 1": 422}  # the file is empty
    assert b"the server is busy and gives up slow uploads" in said["dawdler 0"][1]["body"]
    assert (b"retry-after", b"30") in said["dawdler 0"][0]["headers"]


def test_too_many_heat_maps_at_once(bundle: LoadedBundle, models: LoadedModels, images: list[Path]) -> None:
    with TestClient(app(bundle, models, Limits(explanations=0))) as client:
        retry_after(client.post("/explain", files=uploads(*named(images[:1]))), "the server is busy")


class Stuck:
    """Models that never answer."""

    async def scores(self, squares: object = None) -> np.ndarray:
        await asyncio.Event().wait()
        raise AssertionError

    evidence = alive = scores


class Broken:
    """Models that raise."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def scores(self, squares: object = None) -> np.ndarray:
        raise self.error

    evidence = alive = scores


def test_models_that_do_not_answer_in_time(
    bundle: LoadedBundle, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfray.serving.app.ALIVE_SECONDS", 0.1)
    with TestClient(app(bundle, Stuck(), SMALL)) as client:
        for path in ("/predict", "/explain"):
            retry_after(client.post(path, files=uploads(*named(images[:1]))), "the server is busy")
        retry_after(client.get("/healthz"), "the models do not answer")


def test_models_that_fail(bundle: LoadedBundle, images: list[Path]) -> None:
    broken = Broken(HTTPException(503, "gone", {"Retry-After": "7"}))
    with TestClient(app(bundle, broken), raise_server_exceptions=False) as client:
        assert retry_after(client.post("/predict", files=uploads(*named(images[:2]))), "gone") == 7
        assert retry_after(client.get("/healthz"), "gone") == 7
        broken.error = ValueError("a bug")
        answer = client.post("/predict", files=uploads(*named(images[:2])))
        assert (answer.status_code, answer.json()) == (500, {"detail": "the server failed; its output says why"})


def test_a_number_that_is_none_is_no_verdict(bundle: LoadedBundle, images: list[Path]) -> None:
    class Nan(Stuck):
        async def scores(self, squares: list[np.ndarray]) -> np.ndarray:
            return np.full((2, len(squares[0])), np.nan)

    with TestClient(app(bundle, Nan())) as client:
        answer = client.post("/predict", files=uploads(*named(images[:1])))
    assert answer.status_code == 422
    assert answer.json()["images"][0]["reason"] == "a model's output is not a number"


def test_the_heat_map_is_the_one_that_predict_draws(
    client: TestClient, bundle: LoadedBundle, images: list[Path]
) -> None:
    answer = client.post("/explain", files=uploads(*named(images[:1])))
    assert answer.headers["content-type"] == "image/jpeg"
    picture = decode(images[0].read_bytes())
    ((table, _),) = detect(bundle, [str(images[0])], 1, 1)
    expected = heatmap_jpeg(bundle, picture, table["p_fake"][0])
    difference = decode(answer.content).astype(int) - decode(expected)
    assert np.abs(difference).max() <= 2


def test_one_at_a_time_is_explained(client: TestClient, images: list[Path]) -> None:
    answer = client.post("/explain", files=uploads(*named(images[:2])))
    assert answer.status_code == 400
    assert answer.json()["detail"] == "2 files in the request; one at a time is explained"


def test_it_says_that_it_is_well(client: TestClient) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/healthz", 200), ("/predict", 405), ("/nowhere", 404)])
def test_a_head_is_asked_for_alone(client: TestClient, path: str, status: int) -> None:
    assert client.head(path).status_code == status


def test_what_is_counted(bundle: LoadedBundle, models: LoadedModels, images: list[Path]) -> None:
    with TestClient(app(bundle, models)) as client:
        client.post("/predict", files=uploads(*named(images[:2]), ("x", b"x")))
        client.post("/predict")
        client.get("/nowhere")
        lines = client.get("/metrics").text.splitlines()
        kind = client.get("/metrics").headers["content-type"]
    assert kind.startswith("text/plain; version=")
    numbers = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    for name, value in {
        'rfray_requests_total{path="/predict",status="200"}': 1,
        'rfray_requests_total{path="/predict",status="415"}': 1,
        'rfray_requests_total{path="other",status="404"}': 1,
        'rfray_errors_total{kind="refused"}': 2,
        "rfray_images_total": 3,
        'rfray_verdicts_total{verdict="none"}': 1,
        "rfray_batch_images_sum": 2,
        'rfray_request_seconds_count{path="/predict"}': 2,
    }.items():
        assert float(numbers[name]) == value, name
    called = [float(numbers.get(f'rfray_verdicts_total{{verdict="{verdict}"}}', 0)) for verdict in ("real", "fake")]
    assert sum(called) == 2


HOSTS = {
    "localhost": True, "LOCALHOST:80": True, "localhost.": True, "a.localhost:8000": True,
    "127.0.0.1:8000": True, "[::1]:80": True, "192.168.1.7": True, "gpubox:8000": True,
    "a.example.org": True, "evil.example": False, "localhost.evil.example": False,
    "127.0.0.1.evil.example": False, "gpubox.evil.example": False, "example.org": False, "xexample.org": False,
    "": False, "evil.example@localhost": False, "localhost/evil": False, "[::1].evil.example": False,
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_only_who_means_this_server_is_answered(bundle: LoadedBundle, host: str) -> None:
    asked = Endpoints(bundle.ensemble, bundle.geometries, Stuck(), 1, USUAL).app(["gpubox", "*.example.org"])
    for path in ("/", "/nowhere", "/metrics"):
        answer = TestClient(asked).get(path, headers={"Host": host})
        assert (answer.status_code != 421) == HOSTS[host]
        assert answer.headers["x-content-type-options"] == "nosniff"
    if not HOSTS[host]:
        assert "--allow-host" in answer.json()["detail"]


ORIGINS = {
    "http://localhost": True, "https://localhost:3000": True, "http://127.0.0.1:8000": True, "http://[::1]:8000": True,
    "http://gpubox:8000": True, "https://A.example.org": True, "http://192.168.1.7:8000": True,
    "http://192.168.1.8:8000": False, "http://evil.example": False, "http://gpubox.evil.example": False,
    "null": False, "": False, "file://": False, "http://": False, "chrome-extension://gpubox": False,
    "http://localhost@evil.example": False, "http://evil.example/gpubox": False,
}  # fmt: skip


@pytest.mark.parametrize("origin", ORIGINS)
def test_no_page_from_elsewhere_is_answered(bundle: LoadedBundle, origin: str) -> None:
    asked = TestClient(
        Endpoints(bundle.ensemble, bundle.geometries, Stuck(), 1, USUAL).app(["gpubox", "*.example.org"])
    )
    for ask in (asked.get, asked.post):
        answer = ask("/predict", headers={"Host": "192.168.1.7:8000", "Origin": origin})
        assert (answer.status_code != 403) == ORIGINS[origin]
    if not ORIGINS[origin]:
        assert "a page of another site" in answer.json()["detail"]
        several = [("Host", "localhost"), ("Origin", "http://localhost"), ("Origin", origin)]
        assert asked.post("/predict", headers=several).status_code == 403


@pytest.mark.parametrize(
    ("status", "fetched"),
    [
        (200, {"site": "none", "mode": "navigate", "dest": "document"}),
        (200, {"site": "same-origin", "mode": "cors", "dest": "empty"}),
        (200, {"site": "cross-site", "mode": "navigate", "dest": "document"}),  # somebody follows a link
        (403, {"site": "cross-site", "mode": "navigate", "dest": "iframe"}),
        (403, {"site": "cross-site", "mode": "no-cors", "dest": "image"}),
    ],
)
def test_no_page_from_elsewhere_takes_anything_in(bundle: LoadedBundle, status: int, fetched: dict[str, str]) -> None:
    asked = TestClient(Endpoints(bundle.ensemble, bundle.geometries, Stuck(), 1, USUAL).app([]))
    headers = {"Host": "localhost", **{f"Sec-Fetch-{name}": value for name, value in fetched.items()}}
    assert asked.get("/metrics", headers=headers).status_code == status
    own = {**headers, "Origin": "http://localhost"}  # what it says is what counts
    assert asked.get("/metrics", headers=own).status_code == 200


def test_two_hosts_or_none_are_no_request(bundle: LoadedBundle, models: LoadedModels) -> None:
    asked = Endpoints(bundle.ensemble, bundle.geometries, models, 1, USUAL).app([])
    two = [("Host", "localhost"), ("Host", "evil.example")]
    assert TestClient(asked).get("/metrics", headers=two).status_code == 400
    assert spoken(asked, [b""])[0]["status"] == 400


@pytest.mark.parametrize("name", ["http://gpubox", "gpubox:8000", "a*", "*.*.org", ""])
def test_what_is_no_name_of_a_host_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"--allow-host .* without scheme and port"):
        check_hosts([name])


def test_the_page_of_a_coin_toss_says_so_first(bundle: LoadedBundle) -> None:
    vote = bundle.ensemble
    assert vote.bundle is not None
    for low, said in ((0.4, True), (0.6, False)):
        figures = {
            **vote.bundle.figures,
            "tn": 9,
            "fp": 1,
            "fn": 1,
            "tp": 9,
            "auc": 0.8,
            "auc_low": low,
            "auc_high": 0.9,
        }
        given = vote.model_copy(update={"bundle": vote.bundle.model_copy(update={"figures": figures})})
        html, _ = page(given, USUAL)
        assert ("No better than guessing on 20 test images: AUC 0.800" in html.split("<main>")[0]) is said


@pytest.mark.parametrize("figures", [{}, {"tp": 3.0, "fp": 4.0}, {"auc": 0.9}])
def test_the_page_of_a_bundle_that_lacks_figures_is_made(
    bundle: LoadedBundle, figures: dict[str, float | None]
) -> None:
    vote = bundle.ensemble
    assert vote.bundle is not None
    given = vote.model_copy(update={"bundle": vote.bundle.model_copy(update={"figures": figures})})
    assert "<main>" in page(given, USUAL)[0]


def test_the_interface_is_described(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/predict", "/explain", "/healthz", "/metrics"}
    predict = described["paths"]["/predict"]["post"]
    assert "multipart/form-data" in predict["requestBody"]["content"]
    assert set(predict["responses"]) == {"200", "400", "408", "413", "415", "422", "503"}
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


@pytest.mark.parametrize("ask", [lambda client: client.get("/healthz"), lambda client: client.get("/nowhere")])
def test_every_answer_is_taken_for_what_it_is(client: TestClient, ask: Callable[[TestClient], Any]) -> None:
    headers = ask(client).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
