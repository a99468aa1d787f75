"""Devices that come and go: by the hour, at random, by a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest

from fogtune.platform.aggregation import Tensors
from fogtune.platform.config import Config
from fogtune.platform.config.check import check
from fogtune.platform.errors import InputError, RunFailed
from fogtune.platform.federation.availability import There, availability
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.local_runner import LocalRunner
from fogtune.platform.federation.messages import Setup
from fogtune.platform.modules import module_names
from fogtune.platform.topology_build import build_tree

MakeConfig = Callable[..., Config]

MANY = ("devices.0.count=60",)


def who(config: Config) -> There:
    found = availability(config, build_tree(config))
    assert found is not None
    return found


def test_by_default_all_are_always_there(tiny: MakeConfig) -> None:
    assert availability(tiny(), build_tree(tiny())) is None


def test_a_day_has_hours(tiny: MakeConfig) -> None:
    config = tiny(*MANY, "federation.availability={kind: diurnal, day_rounds: 10, share: 0.3}")
    there, devices = who(config), build_tree(config).devices
    for device in devices:
        of_day = [there(device, number) for number in range(1, 11)]
        assert sum(of_day) == 3
        assert [there(device, number) for number in range(11, 21)] == of_day
        turns = sum(before != after for before, after in zip(of_day, of_day[1:] + of_day[:1], strict=True))
        assert turns == 2  # in one piece
    assert len({tuple(there(device, n) for n in range(1, 11)) for device in devices}) > 5


def test_those_who_come_and_go_stay_as_long_as_said(tiny: MakeConfig) -> None:
    config = tiny(*MANY, "federation.availability={kind: churn, stay_rounds: 6, away_rounds: 3}")
    there, devices = who(config), build_tree(config).devices
    stays: dict[bool, list[int]] = {True: [], False: []}
    for device in devices:
        now, since = there(device, 1), None
        for number in range(2, 400):
            if there(device, number) != now:
                if since is not None:
                    stays[now].append(number - since)
                now, since = not now, number
    assert mean(stays[True]) == pytest.approx(6, rel=0.1)
    assert mean(stays[False]) == pytest.approx(3, rel=0.1)
    assert mean(there(device, 1) for device in devices) == pytest.approx(2 / 3, abs=0.2)


@pytest.mark.parametrize("kind", ["diurnal", "churn"])
def test_it_does_not_matter_who_asks_first(tiny: MakeConfig, kind: str) -> None:
    config = tiny(f"federation.availability={{kind: {kind}}}")
    forth, back = who(config), who(config)
    rounds = range(1, 60)
    expected = [[forth(device, number) for number in rounds] for device in build_tree(config).devices]
    found = [[back(d, n) for n in reversed(rounds)][::-1] for d in reversed(build_tree(config).devices)][::-1]
    assert found == expected


def trace(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["device,from_round,until_round", *lines, ""]))
    return f"federation.availability={{kind: trace, path: {path}}}"


def test_a_file_says_when(tiny: MakeConfig, tmp_path: Path) -> None:
    there = who(tiny(trace(tmp_path / "t.csv", "watch-0,1,3", "watch-0,5,", "reader-0,2,3")))
    assert [there("watch-0", n) for n in range(1, 8)] == [True, True, False, False, True, True, True]
    assert [there("reader-0", n) for n in range(1, 4)] == [False, True, False]
    assert all(there("coach-0", n) for n in range(1, 8))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("watch-9,1,2", "row 1: 'watch-9' is no device; allowed: watch-0, watch-1, reader-0 and 2 more"),
        ("watch-0,3,3", "row 1 is 'watch-0,3,3'; allowed: device,FROM,UNTIL with FROM below UNTIL"),
        ("watch-0,x,3", "row 1 is 'watch-0,x,3'"),
        ("watch-0", "row 1 is 'watch-0'"),
    ],
)
def test_a_bad_line_is_named(tiny: MakeConfig, tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(InputError) as found:
        check(tiny(trace(tmp_path / "t.csv", line)))
    assert problem in str(found.value)
    assert "federation.availability.path" in str(found.value)


def test_a_file_that_is_none(tiny: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"federation\.availability\.path: .*none\.csv cannot be read"):
        check(tiny(f"federation.availability={{kind: trace, path: {tmp_path}/none.csv}}"))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="begins with 'a,b'; allowed: device,from_round,until_round"):
        check(tiny(f"federation.availability={{kind: trace, path: {tmp_path}/other.csv}}"))


def test_only_those_who_are_there_take_part_and_fetch_what_they_have_missed(tiny: MakeConfig, tmp_path: Path) -> None:
    runner = LocalRunner(tiny(trace(tmp_path / "t.csv", "reader-0,1,2", "reader-0,4,")))
    took = []
    for number in range(1, 5):
        runner.round(number)
        took.append("reader-0" in runner.snapshot().coordinator.experts)
        held = runner.snapshot().coordinator.held["reader-0"]
        assert held["head/topic"] == {1: 0, 2: 0, 3: 0, 4: 3}[number]
    runner.close()


def test_a_round_without_devices_fails(tiny: MakeConfig, tmp_path: Path) -> None:
    lines = [f"{device},1,2" for device in build_tree(tiny()).devices]
    config = tiny(trace(tmp_path / "t.csv", *lines))
    initial: dict[str, Tensors] = {module: {} for module in module_names(config)}
    coordinator = Coordinator(config, Setup(initial, {}, {}, None))
    assert len(coordinator.plan(1).orders) == 5
    with pytest.raises(RunFailed, match=r"round 2: none of 5 devices is there, by federation\.availability"):
        coordinator.plan(2)
