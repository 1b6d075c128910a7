"""Pictures alike within one set: which rows are linked, by hashes of which the distances are known."""

import numpy as np
import pandas as pd
import pytest

from rfray.data.hash_index import HASH_BYTES, alike_pairs
from rfray.data.near_duplicates import linked_groups


def other(hash_: bytes, low: int, high: int) -> bytes:
    """The hash with so many of the lowest 64 and of the other 192 bits turned."""
    bits = np.unpackbits(np.frombuffer(hash_, np.uint8))
    bits[:low] ^= 1
    bits[64 : 64 + high] ^= 1
    return np.packbits(bits).tobytes()


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_alike_rows_are_linked_directly_or_through_others(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr("rfray.data.hash_index.AT_ONCE", at_once)
    generator = np.random.default_rng(0)
    a, b, c, d, *mirrored = (generator.bytes(HASH_BYTES) for _ in range(12))
    plain = [a, b, other(a, 3, 17), a, c, d, other(b, 4, 0), other(a, 3, 34)]  # the last one is near to row 2 alone
    mirrored[5] = other(c, 1, 1)  # d is the mirror image of c
    table = pd.DataFrame({"hash": plain, "hash_mirrored": mirrored})
    numbers = linked_groups(len(table), alike_pairs(table))
    assert pd.factorize(numbers)[0].tolist() == [0, 1, 0, 0, 2, 2, 3, 0]


def test_a_thousand_copies_are_linked_without_comparing_each_with_each() -> None:
    table = pd.DataFrame({"hash": [b"a" * HASH_BYTES] * 1000, "hash_mirrored": [b"b" * HASH_BYTES] * 1000})
    pairs = alike_pairs(table)
    assert len(pairs) < 1010  # each with the first one; and that one with itself, as each of its parts finds it
    assert set(linked_groups(1000, pairs)) == {0}
