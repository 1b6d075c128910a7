"""A bundle -> an HTTP server: the steps of `rfray serve`."""

from collections.abc import Sequence

from rfray.errors import InputError


def serve(
    bundle: str, host: str, port: int, replicas: int | None, gpu: float | None, hosts: Sequence[str] = ()
) -> None:
    """Serves until it is stopped. Raises InputError where a package is missing or the address can't be used."""
    try:
        from rfray.serving.server import serve_bundle
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rfray"):
            raise
        raise InputError(f"serve needs {error.name}, which is not installed: pip install 'rfray[serve]'") from None
    serve_bundle(bundle, host, port, replicas, gpu, hosts)
