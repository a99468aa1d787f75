"""Runs in which nodes go on without some of their children: the same bits on Ray, resumed, and with nobody late.

`fog-0` has readers 0 and 2 and watch-0, of a slower class; `fog-1` has readers 1 and 3 and watch-1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import fogtune
from fogtune.platform.config import Config
from fogtune.platform.run import RoundRecord, RunDirectory

MakeConfig = Callable[..., Config]
Left = Callable[[RunDirectory], tuple[list[RoundRecord], object, object]]

BASE = (
    "rounds=6",
    "evaluation.every=3",
    "devices=[{name: reader, count: 4, modalities: [imu], tasks: [side]}, "
    "{name: watch, count: 2, modalities: [imu], tasks: [exercise], device_class: watch}]",
    "network={channel: {kind: log-distance, shadowing_db: 0}, radio: {fading: none}, placement: {radius_m: 50}}",
    "network.classes={phone: {processor: {kind: power, flops_per_s: 4e6, power_w: 2}, speed_spread: 0.3}, "
    "watch: {processor: {kind: power, flops_per_s: 12e5, power_w: 2}, speed_spread: 0.3}}",
)
FOG = "federation.synchrony={fog: {kind: asynchronous, share: 0.6}}"
CLOUD = "federation.synchrony={cloud: {kind: asynchronous, share: 0.5}}"
BOTH = "federation.synchrony={fog: {kind: asynchronous, share: 0.4}, cloud: {kind: asynchronous, share: 0.5}}"
CUT = "federation.synchrony={fog: {kind: semi-synchronous, share: 0.6}, cloud: {kind: semi-synchronous, share: 0.5}}"
QUANTISED = "federation.compression=[{kind: quantise, bits: 8}]"
REGIONAL = 'federation.modules=[{match: "head/*", scope: fog}]'
KINDS = {
    "fog": (FOG,),
    "cloud": (CLOUD, REGIONAL),
    "both": (BOTH, QUANTISED),
    "cut off": (CUT, REGIONAL, "federation.rule.kind=fedyogi"),
    "star": ("federation.synchrony={cloud: {kind: asynchronous, share: 0.3}}", "topology.tiers=[]", QUANTISED),
}


@pytest.fixture(scope="module")
def whole(bare: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunDirectory]:
    """The runs of all kinds, undisturbed and in one process."""
    done: dict[str, RunDirectory] = {}

    def run(kind: str) -> RunDirectory:
        if kind not in done:
            directory = tmp_path_factory.mktemp("whole")
            ran = fogtune.run(bare(*BASE, *KINDS[kind], f"output.directory={directory}"))
            assert ran.status == "completed"
            done[kind] = ran.directory
        return done[kind]

    return run


def decided(run: RunDirectory, what: str) -> set[str]:
    """About whom this was decided."""
    return {d["about"] for record in run.records() for d in record.decisions if d["what"] == what}


@pytest.mark.parametrize(
    ("kind", "late", "too_late"),
    [
        ("fog", {"watch-0", "watch-1"}, set()),
        ("cloud", {"fog-0", "fog-1"}, set()),
        ("cut off", set(), {"watch-0", "watch-1"}),
        ("star", {"watch-0", "watch-1"}, set()),
    ],
)
def test_the_slow_are_late(whole: Callable[[str], RunDirectory], kind: str, late: set[str], too_late: set[str]) -> None:
    assert decided(whole(kind), "is late") >= late
    assert decided(whole(kind), "is too late") >= too_late
    assert bool(decided(whole(kind), "is late")) == bool(late)
    assert bool(decided(whole(kind), "is too late")) == bool(too_late)


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("kind", ["both", "cut off", "star"])
def test_ray_gives_the_same_bits(
    bare: MakeConfig, tmp_path: Path, whole: Callable[[str], RunDirectory], left: Left, kind: str
) -> None:
    ran = fogtune.run(bare(*BASE, *KINDS[kind], f"output.directory={tmp_path}", "execution.runner=ray"))
    assert left(ran.directory) == left(whole(kind))


@pytest.mark.parametrize(("kind", "last"), [("fog", 2), ("cloud", 3), ("both", 4), ("cut off", 2), ("star", 3)])
def test_a_stopped_run_knows_who_is_under_way(
    bare: MakeConfig, tmp_path: Path, whole: Callable[[str], RunDirectory], left: Left, kind: str, last: int
) -> None:
    def stop(record: RoundRecord) -> None:
        if record.round == last:
            raise KeyboardInterrupt

    stopped = fogtune.run(bare(*BASE, *KINDS[kind], f"output.directory={tmp_path}"), on_event=stop)
    assert stopped.status == "stopped"
    assert left(fogtune.resume(stopped.directory.path).directory) == left(whole(kind))


@pytest.mark.parametrize("kind", ["asynchronous", "semi-synchronous"])
def test_who_waits_for_all_is_synchronous(bare: MakeConfig, tmp_path: Path, left: Left, kind: str) -> None:
    waiting = f"federation.synchrony={{fog: {{kind: {kind}, share: 1}}, cloud: {{kind: {kind}, share: 1}}}}"
    found = [
        left(fogtune.run(bare(*BASE, *changes, "rounds=3", f"output.directory={tmp_path}")).directory)
        for changes in ((), (waiting,))
    ]
    assert found[0] == found[1]


def ledger(run: RunDirectory) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run.path / "ledger.parquet").to_pylist()
    return rows


def test_what_a_device_under_way_does_is_booked_when_it_is_waited_for(whole: Callable[[str], RunDirectory]) -> None:
    """But for its downloads, which others hear too. Nothing is in the ledger twice."""
    of_watch = [row for row in ledger(whole("fog")) if "watch-0" in (row["source"], row["target"])]
    computed = [row for row in of_watch if row["kind"] == "compute"]
    assert computed[0]["round"] > 1  # it began in round 1, with what it had
    assert computed[0]["start_s"] == 0
    for row in computed:
        sent = [r for r in of_watch if r["kind"] == "uplink" and r["round"] == row["round"]]
        assert sent
        assert min(r["start_s"] for r in sent) == pytest.approx(row["start_s"] + row["seconds"])
        # What it got had come before, and nothing else came in between.
        got = [r for r in of_watch if r["kind"] == "downlink" and r["round"] <= row["round"]]
        assert all(r["start_s"] + r["seconds"] <= row["start_s"] + 1e-9 for r in got)
    starts = [row["start_s"] for row in computed]
    assert starts == sorted(set(starts))


def test_what_is_broken_off_costs_until_then(whole: Callable[[str], RunDirectory]) -> None:
    """The watches, for their nodes go on; the readers of fog-0 too, for the cloud goes on with fog-1."""
    rows = [row for row in ledger(whole("cut off")) if row["round"] == 1]
    broken = [row for row in rows if row["lost"]]
    assert {row["source"] for row in broken} == {"watch-0", "watch-1", "reader-0", "reader-2"}
    assert {row["kind"] for row in broken if row["source"].startswith("watch")} == {"compute"}  # they never sent
    assert min(row["joules"] for row in broken) > 0
    (record, *_) = whole("cut off").records()
    latest_s = max(row["start_s"] + row["seconds"] for row in rows)
    assert record.virtual_time_s == pytest.approx(latest_s)
    assert (record.participants, record.dropped, record.updates_lost) == (6, 4, 0)
