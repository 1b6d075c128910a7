"""Scores on different left-out sources."""

import pytest

from rfray.stats.unseen import over_rotations, rotation_effects


def test_some_rotations_are_easier_than_others() -> None:
    # means 0.9, 0.6 and 0.6, of which the mean is 0.7
    effects = rotation_effects([(1, 0.95), (1, 0.85), (2, 0.6), (3, 0.55), (3, 0.65)])
    assert effects == pytest.approx({1: 0.2, 2: -0.1, 3: -0.1})
    assert rotation_effects([]) == {}
    assert rotation_effects([(2, 0.4), (2, 0.6)]) == {2: 0.0}


def test_with_a_score_in_each_rotation_they_are_what_counts() -> None:
    assert over_rotations({1: 0.9, 2: 0.5, 3: 0.7}, {1: 0.2, 2: -0.1, 3: -0.1}) == pytest.approx((0.7, 0.5))


def test_else_what_is_missing_is_expected() -> None:
    effects = {1: 0.2, 2: -0.05, 3: -0.15}
    # 0.9 where it is 0.2 easier: 0.7 on the average one, 0.65 and 0.55 on the others
    assert over_rotations({1: 0.9}, effects) == pytest.approx((0.7, 0.55))
    # 0.9 and 0.75 say 0.7 and 0.8, so 0.75 on the average one, and 0.6 on the third
    assert over_rotations({1: 0.9, 2: 0.75}, effects) == pytest.approx(((0.9 + 0.75 + 0.6) / 3, 0.6))
    assert over_rotations({1: 0.9}, {}) == (0.9, 0.9)
