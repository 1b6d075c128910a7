"""An S3 server on 127.0.0.1 (moto's), for the tests of everything that can be at an address."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest


@contextmanager
def bucket_here() -> Iterator[str]:
    """The address of an empty bucket, s3://…, that this process and those that it starts can read and write."""
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        from rfray.store import storage

        storage._opened.cache_clear()  # of an earlier server: the address is the same, the port is not
        urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()  # moto keeps it in this process
        boto3.client("s3").create_bucket(Bucket="rfray-test")
        try:
            yield "s3://rfray-test"
        finally:
            server.stop()


def upload(folder: Path, address: str) -> None:
    """Puts every file of a folder at an address."""
    from rfray.store.storage import Storage

    storage = Storage(address)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            storage.write(file.relative_to(folder).as_posix(), file.read_bytes())
