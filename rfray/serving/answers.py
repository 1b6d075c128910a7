"""What the server says, as JSON: one `Judgement` a picture."""

from typing import Literal

from rfray.spec.schema_base import Strict


class Judgement(Strict):
    """What the bundle says of one uploaded file."""

    name: str
    """As the client called it."""
    p_fake: float | None
    """The vote's, in [0, 1]; null where there is a reason."""
    verdict: Literal["real", "fake", "unsure"] | None
    """null where there is a reason."""
    members: dict[str, float]
    """Member's id -> its p_fake; empty where there is a reason."""
    reason: str
    """Why there is no verdict; "" where there is one."""


class Judgements(Strict):
    """The files of a request, in their order."""

    images: list[Judgement]


class Refusal(Strict):
    """Why a request was not answered."""

    detail: str


class Unreadable(Refusal):
    """Why none of a request's files could be judged, and each one's reason."""

    images: list[Judgement]
