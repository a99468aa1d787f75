"""Pin, canary, roll back: what each decision makes of the one before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fogtune.platform.errors import InputError
from fogtune.serve.rollout import Canary, Rollout, change_rollout, promoted, read_rollout, rolled_back

NEWEST = Rollout()
USABLE = (1, 2, 4, 5)


def test_a_version_is_pinned_and_the_newest_followed_again() -> None:
    pinned = promoted(NEWEST, 2, 100, USABLE)
    assert pinned == Rollout(pinned=2)
    assert promoted(pinned, None, 100, USABLE) == NEWEST


@pytest.mark.parametrize(
    ("before", "version", "stable"),
    [
        (NEWEST, 4, 5),  # the newest goes on, and stays even if a newer one comes
        (NEWEST, 5, 4),  # the newest itself is tried: the one before it answers the others
        (Rollout(pinned=2), 5, 2),
        (Rollout(pinned=3), 4, 5),  # a pin that cannot be followed
        (Rollout(pinned=2, canary=Canary(version=4, percent=5)), 5, 2),
    ],
)
def test_a_canary_stands_beside_what_was_served(before: Rollout, version: int, stable: int) -> None:
    assert promoted(before, version, 10, USABLE) == Rollout(pinned=stable, canary=Canary(version=version, percent=10))


def test_a_canary_is_promoted_or_taken_back() -> None:
    tried = Rollout(pinned=2, canary=Canary(version=5, percent=10))
    assert promoted(tried, 5, 100, USABLE) == Rollout(pinned=5)
    assert rolled_back(tried, USABLE) == Rollout(pinned=2)


def test_roll_back_goes_to_the_version_before_again_and_again() -> None:
    rollout = NEWEST
    for expected in (4, 2, 1):
        rollout = rolled_back(rollout, USABLE)
        assert rollout == Rollout(pinned=expected)
    with pytest.raises(InputError, match="none before v1"):
        rolled_back(rollout, USABLE)
    with pytest.raises(InputError, match="none is published"):
        rolled_back(NEWEST, ())


@pytest.mark.parametrize(
    ("version", "percent", "words"),
    [
        (3, 100, "3 cannot be served; allowed: v1, v2, v4, v5"),
        (2, 0, "allowed: more than 0, up to 100"),
        (2, 101, "allowed: more than 0, up to 100"),
        (2, float("nan"), "allowed: more than 0, up to 100"),
        (None, 10, "allowed: 100, or name the version"),
    ],
)
def test_what_cannot_be_promoted(version: int | None, percent: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        promoted(NEWEST, version, percent, USABLE)


def test_the_only_version_has_nothing_to_be_the_canary_of() -> None:
    with pytest.raises(InputError, match="no version before v1 to answer the others"):
        promoted(NEWEST, 1, 10, (1,))


def test_the_decision_lies_in_the_run(tmp_path: Path) -> None:
    assert read_rollout(tmp_path) == NEWEST
    decided = Rollout(pinned=2, canary=Canary(version=5, percent=12.5))
    assert change_rollout(tmp_path, lambda held: decided if held == NEWEST else held) == decided
    assert read_rollout(tmp_path) == decided
    assert {path.name for path in tmp_path.iterdir()} == {"serving.json", ".serving.lock"}


def test_no_change_is_made_of_what_holds_no_more(tmp_path: Path) -> None:
    """However many change it at once."""

    def count(held: Rollout) -> Rollout:
        return Rollout(pinned=(held.pinned or 0) + 1)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: change_rollout(tmp_path, count).pinned, range(200)))
    assert sorted(found for found in made if found) == list(range(1, 201))
    assert read_rollout(tmp_path) == Rollout(pinned=200)


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".serving.lock").mkdir()
    with pytest.raises(InputError, match=r"serving.json: cannot be written: Is a directory"):
        change_rollout(tmp_path, lambda held: held)


@pytest.mark.parametrize("text", ["", "[]", '{"pinned": "x"}', '{"pinned": -1}', '{"canary": {"version": 1}}', "\xff"])
def test_a_damaged_decision_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "serving.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="damaged") as refused:
        read_rollout(tmp_path)
    assert "\n" not in str(refused.value)
