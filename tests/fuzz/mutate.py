"""A random generator + bytes, text or values -> the same with something wrong in it."""

import io
import string
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HEADER = 400
"""Bytes at the beginning in which every second change is made: sizes and counts are there."""
EDGES = (0, 1, 2, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]
TEXTS = (
    "", " ", "0", "1e999", "nan", "true", "null", "~", "real", "fake", "../x", "../../etc/x", "/nonexistent/x",
    "a/b", ".", "a//b", "C:\\x", "a\0b", "a\nb", "a\r\nb", "\x1b[31mred", "\u202egnp", "\ud800", "\udce9", "é",
    "日本", "🙂", "=1+1", "'", '"', "<script>", "{x}", "{{x}}", "%s", "%n", "[bold]x[/]", "[/]", "(", "(?P<x>",
    "(a+)+$", "a{4294967296}", "s3://b/x", "s3://k:s@b/x", "file:///x", "http://[", "x" * 255, "x" * 300,
    "x" * 70_000, "2001-01-01", "1_000", "0x10",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, False, 0, -0.0, -1, 1, 2, 3, 0.5, 1.0, 1e-320, 1e-9, 1e308, float("nan"), float("inf"),
    float("-inf"), 7, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**18, 10**400, -(10**400), [],
    {}, [[]], [{}], {"": {}}, {"x": 1}, DEEP, *TEXTS,
)  # fmt: skip
WORDS = tuple(text for text in TEXTS if len(text) < 1000)


def several(random: Random) -> int:
    """How many changes: one mostly."""
    return random.choice((1, 1, 1, 2, 3, 8))


def of_bytes(random: Random, data: bytes, others: Sequence[bytes] = (), words: Sequence[bytes] = ()) -> bytes:
    """Bits and numbers changed, pieces cut out, doubled, moved, from elsewhere; `words` are put in."""
    changed = bytearray(data)
    for _ in range(several(random)):
        at = random.randrange(min(HEADER, len(changed)) if random.random() < 0.5 else len(changed)) if changed else 0
        end = at + random.choice((1, 2, 4, random.randint(1, 64), random.randint(1, 1 + len(changed))))
        match random.randrange(9):
            case 0 if changed:
                changed[at] ^= 1 << random.randrange(8)
            case 1 if changed:
                changed[at] = random.choice((0, 1, 127, 128, 254, 255, random.randrange(256)))
            case 2 | 3:
                size = random.choice((1, 2, 4, 8))
                number = random.choice(EDGES) % 256**size
                changed[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))
            case 4:
                del changed[at:end]
            case 5:
                changed[at:at] = changed[at:end] * random.choice((1, 1, 2, 50))
            case 6:
                other = random.choice(others) if others else bytes(changed)
                start = random.randrange(len(other) + 1)
                changed[at:end] = other[start : start + random.randint(0, len(other))]
            case 7:
                changed[at:at] = random.choice(words) if words else random.randbytes(random.randint(1, 16))
            case _:
                del changed[at:]
    return bytes(changed)


def of_text(random: Random, text: str, others: Sequence[str], words: Sequence[str]) -> str:
    """The same of text, by lines and words; what is no UTF-8 becomes a character that is."""
    if random.random() < 0.5:
        lines = text.splitlines(keepends=True)
        for _ in range(several(random)):
            at = random.randrange(len(lines) + 1)
            match random.randrange(5):
                case 0:
                    lines[at:at] = lines[at : at + random.randint(1, 5)]
                case 1:
                    del lines[at : at + random.randint(1, 3)]
                case 2 if at < len(lines):
                    lines[at] = random.choice(("", " ", "  ", "\t", "- ", "? ", "#")) + lines[at]
                case 3 if at < len(lines):
                    place = random.randrange(len(lines[at]))
                    lines[at] = lines[at][:place] + random.choice(words) + lines[at][place:]
                case _:
                    lines[at:at] = random.choice(others).splitlines(keepends=True)[: random.randint(1, 9)]
        return "".join(lines)
    coded = [word.encode("utf-8", "surrogatepass") for word in words]
    return of_bytes(random, text.encode(), [other.encode() for other in others], coded).decode("utf-8", "replace")


def of_value(random: Random, value: Any, odd: Sequence[Any] = ODD) -> Any:
    """Nested dicts and lists: values of other types, keys gone, renamed, doubled or moved."""
    root = [deepcopy(value)]
    for _ in range(several(random)):
        places = _places(root)
        holder, key = random.choice(places)
        match random.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                name = random.choice(
                    (f"{key}x", key.upper(), random.choice(TEXTS), random.choice(string.ascii_letters))
                )
                holder[name] = holder.pop(key)
            case 2 if isinstance(holder, list):
                holder[key:key] = [deepcopy(holder[key])] * random.choice((1, 2, 100))
            case 3:
                other, name = random.choice(places)
                holder[key] = deepcopy(other[name]) if name in _keys(other) else None
            case 4:
                holder[key] = random.choice(([holder[key]], {"x": holder[key]}, str(holder[key])))
            case 5 if type(holder[key]) in (int, float):
                holder[key] = _number(random, holder[key])
            case _:
                holder[key] = deepcopy(random.choice(odd))
        if not root:
            return None
    return root[0]


def of_table(random: Random, table: pa.Table, seal: Mapping[str, str]) -> bytes:
    """A Parquet file with other columns, cells and types; `seal`: what its metadata have in any case."""
    columns = table.to_pydict()
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    for _ in range(several(random)):
        name = random.choice(list(columns)) if columns else "x"
        match random.randrange(7):
            case 0:
                columns.pop(name, None)
            case 1:
                columns[random.choice((name.upper(), "", "x", "path"))] = columns.get(name, [])
            case 2 if columns.get(name):
                columns[name][random.randrange(len(columns[name]))] = random.choice(ODD)
            case 3:
                columns[name] = [random.choice(ODD)] * len(columns.get(name, ()))
            case 4:
                columns = {one: cells[: random.randrange(3)] * 2 for one, cells in columns.items()}
            case 5:
                random.shuffle(columns.get(name, []))
            case _ if metadata:
                key = random.choice(list(metadata))
                metadata[key] = str(random.choice(WORDS))
    length = max((len(cells) for cells in columns.values()), default=0)
    arrays = {one: _array(random, [*cells, *[None] * (length - len(cells))]) for one, cells in columns.items()}
    with suppress(UnicodeEncodeError):  # half a character
        metadata = {key: value for key, value in metadata.items() if value.encode() is not None}
    made = pa.table(arrays).replace_schema_metadata(
        {**{key: value.encode("utf-8", "replace") for key, value in metadata.items()}, **seal}
    )
    out = io.BytesIO()
    pq.write_table(made, out)
    return out.getvalue()


def _array(random: Random, cells: list[Any]) -> pa.Array:
    """A column of the cells, of whatever type they can have."""
    if random.random() < 0.1:
        return pa.array(cells[:0], pa.null()) if not cells else pa.nulls(len(cells))
    with suppress(pa.ArrowException, OverflowError, ValueError, UnicodeEncodeError, TypeError):
        array = pa.array(cells)
        pq.write_table(pa.table({"x": array}), io.BytesIO())  # not every type can be in a file
        return array
    return pa.array([str(cell)[:500].encode("utf-8", "replace").decode() for cell in cells], pa.string())


def _number(random: Random, given: Any) -> Any:
    changes: tuple[Callable[[], Any], ...] = (
        lambda: -given,
        lambda: given + 1,
        lambda: given / 2,
        lambda: float(given),
        lambda: given * 10**9,
        lambda: random.choice(EDGES),
    )
    try:
        return random.choice(changes)()
    except OverflowError:
        return 0


def _keys(holder: Any) -> Sequence[Any]:
    return list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()


def _places(holder: Any) -> list[tuple[Any, Any]]:
    """Every (dict or list, key or position in it), however deep."""
    found, waiting = [], [holder]
    while waiting:
        here = waiting.pop()
        found += [(here, key) for key in _keys(here)]
        waiting += [here[key] for key in _keys(here)]
    return found
