"""Cadences chosen by what a module costs and how much it moves."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.federation.adaptive import choose_cadences

POSITIVE = st.floats(1e-6, 1e6)


def test_what_costs_sixteen_times_as_much_is_sent_a_quarter_as_often() -> None:
    moved = {"encoder/image": 0.1, "head/topic": 0.1}
    size = {"encoder/image": 16.0, "head/topic": 1.0}
    # At (4, 1) 16 / 4 + 1 = 5 of 17 bytes are sent, 0.294 of them; at (2, 1) 9 of 17, 0.529, are too many.
    assert choose_cadences(moved, size, 0.3, 8) == {"encoder/image": 4, "head/topic": 1}


def test_what_moves_sixteen_times_as_much_is_sent_four_times_as_often() -> None:
    moved, size = {"encoder/image": 0.16, "encoder/imu": 0.01}, {"encoder/image": 1.0, "encoder/imu": 1.0}
    # (1, 4) sends 1.25 of 2.
    assert choose_cadences(moved, size, 0.63, 8) == {"encoder/image": 1, "encoder/imu": 4}


def test_without_a_limit_on_bytes_all_is_sent_every_round() -> None:
    assert choose_cadences({"a": 1.0, "b": 1e-9}, {"a": 1.0, "b": 1e9}, 1.0, 8) == {"a": 1, "b": 1}


def test_what_does_not_move_at_all_is_sent_as_seldom_as_may_be() -> None:
    # Without any of it, half of the bytes and an eighth are left; of the powers of two up to 6 the largest is 4.
    assert choose_cadences({"a": 0.0, "b": 0.1}, {"a": 1.0, "b": 1.0}, 0.63, 6) == {"a": 4, "b": 1}


def test_before_anything_has_moved_nothing_is_chosen() -> None:
    assert choose_cadences({}, {}, 0.5, 8) == {}


@given(
    modules=st.dictionaries(st.text("abcdef", min_size=1), st.tuples(POSITIVE, POSITIVE), min_size=1),
    budget=st.floats(0.01, 1),
    longest=st.integers(1, 64),
)
def test_cadences_are_powers_of_two_within_the_budget(
    modules: dict[str, tuple[float, float]], budget: float, longest: int
) -> None:
    size = {module: s for module, (_, s) in modules.items()}
    chosen = choose_cadences({module: m for module, (m, _) in modules.items()}, size, budget, longest)
    most = 2 ** int(math.log2(longest))
    assert all(math.log2(c).is_integer() and 1 <= c <= most for c in chosen.values())
    spent = sum(size[module] / c for module, c in chosen.items())
    assert spent <= budget * sum(size.values()) * (1 + 1e-9) or set(chosen.values()) == {most}
