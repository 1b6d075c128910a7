"""What users write -> checked records (`Strict`), or what pydantic refused in a user's words."""

import os
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from rfray.errors import check_no_secret

KeyPath = tuple[str | int, ...]
Problems = Iterator[tuple[KeyPath, object, str]]
"""Keys, each with what was given and what is allowed."""


class Strict(BaseModel):
    """A frozen record that refuses unknown keys, converts nothing and holds no nan or inf."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def rule(allowed: str, holds: Callable[[Any], object]) -> AfterValidator:
    """What a type is annotated with to refuse some values; `allowed` says what may be written."""

    def checked(value: Any) -> Any:
        if not holds(value):
            raise ValueError(allowed)
        return value

    return AfterValidator(checked)


def _without_key(address: str) -> str:
    check_no_secret(address)  # its InputError passes pydantic by, which would show what was given
    return address


def leads_out(name: str) -> bool:
    """Whether a name is none of a file below a folder: absolute, empty, or with an empty part, ., .. or a zero byte."""
    return any(part in ("", ".", "..") or "\0" in part for part in name.split("/"))


EACH_ONCE = rule("every value once", lambda values: len({repr(value) for value in values}) == len(values))
PathOfFile = Annotated[
    str,
    rule("a path", bool),
    AfterValidator(lambda path: _without_key(path) if "://" in path else os.path.abspath(os.path.expanduser(path))),
]
"""A path that is made absolute, or an address. Who looks for a file of this name says that there is none."""
AbsolutePath = Annotated[PathOfFile, rule("a path", lambda path: "\0" not in path)]
"""The same of what is walked through, or made: a zero byte would be met anywhere."""


def refusing(problems: Callable[[Any], Problems]) -> Any:
    """Makes a method that yields problems the check of its whole record: each of them becomes an error."""

    def checked(record: Any) -> Any:
        errors = [
            InitErrorDetails(type=PydanticCustomError("value_error", "{text}", {"text": text}), loc=key, input=given)
            for key, given, text in problems(record)
        ]
        if errors:
            raise ValidationError.from_exception_data("sweep", errors)
        return record

    return model_validator(mode="after")(checked)


_ALLOWED = {
    "bool_type": "true, false",
    "int_type": "a whole number, without a decimal point",
    "float_type": "a number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "dict_type": "keys with values (key: value)",
    "model_type": "keys with values (key: value)",
    "too_short": "at least one entry",
    "too_long": "one entry",
    "string_pattern_mismatch": "letters, digits and . _ -, a letter or digit first",
    "union_tag_invalid": "a value or a list of values (a range only for numbers)",
}
"""Pydantic's name of a problem -> what is allowed, where its own words are not a user's."""


def allowed(detail: ErrorDetails) -> str:
    """What may be written instead of what pydantic refused, in a user's words."""
    given = detail["input"]
    if detail["type"] == "string_type":
        return f'text, in quotes: "{given}"' if type(given) in (int, float) else "text"
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"]).replace("'", "")
    if detail["type"] == "model_type":
        records = {record.__name__: list(record.model_fields) for record in Strict.__subclasses__()}
        if len(keys := records.get(detail["ctx"]["class_name"], [])) in (1, 2, 3):
            return f"keys with values ({', '.join(f'{key}: …' for key in keys)})"
    own_words = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return _ALLOWED.get(detail["type"], own_words)
