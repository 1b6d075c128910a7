"""what a bundle says of itself -> the page at /, and the policy that lets a browser run nothing else."""

from base64 import b64encode
from hashlib import sha256

from jinja2 import Environment, PackageLoader, StrictUndefined

from rfray.evaluation.ensemble import Ensemble
from rfray.serving.uploads import Limits


def page(ensemble: Ensemble, limits: Limits) -> tuple[str, str]:
    return "hello", "default-src 'none'"
