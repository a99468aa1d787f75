"""Devices that join and tasks that begin later: devices get the modules that they lack from who has them.

Of `bare`'s devices fog-0 has watch-0, reader-0 and coach-0, fog-1 watch-1 and reader-1. The readers join in round 3:
until then coach-0 alone executes `side`, and nothing of it is needed below fog-1. `tiny`'s are alike, and their task is
`topic`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from fogtune.platform.config import Config
from fogtune.platform.federation.local_runner import LocalRunner, RoundResult
from fogtune.platform.federation.sizes import message_bytes
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.run.record import LedgerRow

MakeConfig = Callable[..., Config]
Run = Callable[..., "Ran"]

LATE = "devices.1.joins=3"
NETWORK = (
    "seed=2",  # in whose shadows the readers stand
    "network.placement.radius_m=150",
    "network.placement.spread_m=5",
    'network.channel={"kind": "log-distance", "shadowing_db": 12}',  # some near to each other are heard much worse
    'network.radio={"fading": "none", "least_snr_db": -20}',
)
SHARED = (LATE, *NETWORK, "network.d2d.share=true")
SMALL = ('federation.compression=[{"kind": "quantise"}]', "federation.compress_down=true")
SIDE = {"head/side", "prompt/side"}
TOPIC = {"head/topic", "prompt/topic"}


class Ran:
    """Four rounds."""

    def __init__(self, config: Config) -> None:
        runner = LocalRunner(config)
        self.sizes = {module: message_bytes(tensors) for module, tensors in runner.setup.initial.items()}
        self.results: list[RoundResult] = []
        self.snapshots: list[Snapshot] = []
        for number in range(1, 5):
            self.results.append(runner.round(number))
            self.snapshots.append(runner.snapshot())
        runner.close()

    def rows(self, number: int, *kinds: str) -> list[LedgerRow]:
        return [row for row in self.results[number - 1].rows if row.kind in kinds]


@pytest.fixture(scope="module")
def run(bare: MakeConfig) -> Run:
    """Runs four rounds; what was run before is not run again."""
    return cache(lambda *overrides: Ran(bare(*overrides)))


@pytest.fixture(scope="module")
def run_with_backbone(tiny: MakeConfig) -> Run:
    """The same with a backbone, whose modules are large enough to be sent as smaller changes, and its prefixes."""
    return cache(lambda *overrides: Ran(tiny(*overrides)))


def test_they_take_part_from_the_round_in_which_they_join(run: Run) -> None:
    ran = run(LATE)
    assert [result.record.participants for result in ran.results] == [3, 3, 5, 5]
    named = [{end for row in result.rows for end in (row.source, row.target)} for result in ran.results]
    assert ["reader-0" in nodes and "reader-1" in nodes for nodes in named] == [False, False, True, True]
    assert [result.lost for result in ran.results] == [None] * 4
    assert ran.snapshots[1].coordinator.held.keys() == {"watch-0", "watch-1", "coach-0"}


def test_a_node_is_given_nothing_that_none_of_its_devices_needs_yet(run: Run) -> None:
    ran = run(LATE)
    for number in (1, 2):
        down = [row for row in ran.rows(number, "backhaul") if row.source == "cloud"]
        assert {row.target for row in down if row.module in SIDE} == {"fog-0"}
        assert {row.target for row in down if row.module == "encoder/imu"} == {"fog-0", "fog-1"}
    before, after = ran.snapshots[1], ran.snapshots[2]
    assert (before.coordinator.stamps["fog-1"]["head/side"], before.coordinator.stamps["cloud"]["head/side"]) == (
        0,
        2,
    )
    assert after.coordinator.stamps["fog-1"]["head/side"] == 3
    for name, tensor in after.nodes["cloud"].versions["head/side"].items():
        assert torch.equal(tensor, after.nodes["fog-1"].versions["head/side"][name])
        assert not torch.equal(tensor, before.nodes["fog-1"].versions["head/side"][name])


@pytest.mark.parametrize("small", [False, True])
def test_when_they_join_it_gets_those_whole_and_so_do_they(run_with_backbone: Run, small: bool) -> None:
    ran = run_with_backbone(LATE, *(SMALL if small else ()))
    (fetched, *_), (whole, *_) = (
        [row for row in ran.rows(3, "backhaul") if (row.target, row.module) == ("fog-1", module)]
        for module in ("head/topic", "prompt/topic")
    )
    assert (fetched.bytes, whole.bytes) == (ran.sizes["head/topic"], ran.sizes["prompt/topic"])
    for row in (row for row in ran.rows(3, "downlink") if row.target == "reader-1"):
        assert row.bytes == ran.sizes[row.module]
    changes = [row for row in ran.rows(4, "downlink") if row.target == "reader-1" and row.module in TOPIC]
    assert [row.bytes < ran.sizes[row.module] for row in changes] == [small] * 2


def test_its_own_fog_nodes_fetch_comes_before_all_else(run: Run) -> None:
    ran = run(LATE, *NETWORK)
    rows = ran.rows(3, "backhaul", "downlink")
    fetched = {row.module: row for row in reversed(rows) if row.kind == "backhaul" and row.target == "fog-1"}
    there_s = max((fetched[module].start_s or 0) + (fetched[module].seconds or 0) for module in SIDE)
    begins_s = [row.start_s for row in rows if row.kind == "downlink" and row.source == "fog-1"]
    assert begins_s
    assert all(start_s is not None and start_s >= there_s - 1e-9 for start_s in begins_s)


class TestHandingOn:
    def test_a_neighbour_gives_what_it_has_just_been_given(self, run: Run) -> None:
        ran = run(*SHARED)
        rows = [row for row in ran.rows(3, "d2d") if row.module == "head/side" and row.target == "reader-0"]
        assert [(row.source, row.bytes, row.hops) for row in rows] == [("coach-0", ran.sizes["head/side"], 1)]
        (heard,) = (row for row in ran.rows(3, "downlink") if row.module == "head/side" and row.source == "fog-0")
        assert (rows[0].start_s or 0) >= (heard.start_s or 0) + (heard.seconds or 0) - 1e-9
        told = [
            d["why"] for d in ran.results[2].record.decisions if (d["about"], d["what"]) == ("reader-0", "is handed on")
        ]
        assert any("head/side" in why and why.endswith("from coach-0: the cheapest that has it") for why in told)

    def test_that_costs_less_and_changes_nothing_else(self, run: Run) -> None:
        ran, alone = run(*SHARED), run(LATE, *NETWORK, "network.d2d={}")
        for shared, plain in zip(ran.results, alone.results, strict=True):
            assert shared.record.tasks == plain.record.tasks
            assert shared.record.loss == plain.record.loss
        assert ran.rows(1, "uplink", "downlink", "d2d") == alone.rows(1, "uplink", "downlink", "d2d")
        energies_j = [there.results[2].record.energy_j for there in (ran, alone)]
        assert energies_j[0] is not None
        assert energies_j[1] is not None
        assert energies_j[0] < energies_j[1]

    def test_a_copy_that_is_not_the_version_costs_a_device_its_round(
        self, bare: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runner = LocalRunner(bare(*SHARED, "federation.quorum=0.5"))
        for number in (1, 2):
            runner.round(number)
        lend = runner._host.hand_on

        def torn(*arguments: object) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
            copies = lend(*arguments)  # type: ignore[arg-type]
            return {
                key: {name: tensor + 1e-3 for name, tensor in tensors.items()} if key[1] == "head/side" else tensors
                for key, tensors in copies.items()
            }

        monkeypatch.setattr(runner._host, "hand_on", torn)
        result = runner.round(3)
        assert result.record.updates_lost == 1
        assert result.lost is not None
        assert "head/side as " in result.lost
        assert result.lost.endswith("is not the version of fog-0: its sha256 differs")
        runner.close()


@pytest.mark.parametrize("share", ["true", "false"])
def test_a_star_with_access_points_relays_downloads(bare: MakeConfig, share: str) -> None:
    shadowed = (
        "seed=16",  # some do not hear the access point
        "topology.tiers=[]",
        "network.placement={access_points: 1, radius_m: 300, spread_m: 20}",
        "network.channel={kind: log-distance, shadowing_db: 12}",
        "network.radio={fading: none, least_snr_db: 0}",
        f"network.d2d={{range_m: 5000, band_hz: 1e3, share: {share}}}",
    )
    runner = LocalRunner(bare(*shadowed))
    results = [runner.round(number) for number in (1, 2)]
    runner.close()
    assert [result.lost for result in results] == [None, None]
    down = {(row.source, row.target) for row in results[1].rows if row.kind == "d2d" and row.module == "encoder/imu"}
    assert down


def test_the_shape_of_the_tree_does_not_change_a_bit(run: Run) -> None:
    def bits(ran: Ran) -> list[torch.Tensor]:
        versions = ran.snapshots[-1].nodes["cloud"].versions
        return [tensor for _, tensors in sorted(versions.items()) for _, tensor in sorted(tensors.items())]

    late = (LATE, "tasks.exercise.begins=2")
    deep = 'topology.tiers=[{"name": "region", "count": 2}, {"name": "fog", "count": 3}]'
    star, tree, deeper = (bits(run(*late, *shape)) for shape in (("topology.tiers=[]",), (), (deep,)))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(star, tree, deeper, strict=True))


def test_adaptive_cadences_count_from_where_a_module_began(run: Run) -> None:
    """A round's change is not spread over rounds in which nobody trained the module."""
    moved = run("tasks.side.begins=3", "federation.adaptive={budget: 0.9}").snapshots[2].coordinator.moved
    at_once = run("federation.adaptive={budget: 0.9}").snapshots[0].coordinator.moved
    assert moved["head/side"] == pytest.approx(at_once["head/side"], rel=0.5)


def test_scaffolds_mean_correction_is_over_those_who_have_joined(run: Run) -> None:
    """After a round in which all that have joined took part, c is the mean of their c_i."""
    ran = run(LATE, "local.optimizer=sgd", "federation.rule.kind=scaffold", "topology.tiers=[]")
    snapshot = ran.snapshots[0]
    total = torch.cat([
        tensor.flatten()
        for name, tensor in sorted(snapshot.nodes["cloud"].versions["encoder/imu"].items())
        if name.startswith("control/")
    ])  # fmt: skip
    own = [
        torch.cat([tensor.flatten() for _, tensor in sorted(snapshot.devices[device].controls["encoder/imu"].items())])
        for device in ("watch-0", "watch-1", "coach-0")
    ]
    mean = torch.stack(own).mean(0)  # c weighs them by their samples, so nearly this
    assert 0.9 < float(total @ mean / (mean @ mean)) < 1.1  # over all five owners it would be 3 fifths of it


class TestNewTask:
    BEGINS = "tasks.side.begins=3"

    def test_devices_execute_it_from_the_round_in_which_it_begins(self, run: Run) -> None:
        ran = run(self.BEGINS)
        assert [result.record.participants for result in ran.results] == [3, 3, 5, 5]  # readers have nothing else
        assert [sorted(result.record.loss) for result in ran.results] == [["exercise"]] * 2 + [["exercise", "side"]] * 2
        moved = [SIDE & set(result.record.modules_moved) for result in ran.results]
        assert moved == [set(), set(), SIDE, SIDE]

    def test_who_has_worked_before_fetches_only_what_is_new(self, run: Run) -> None:
        ran = run(self.BEGINS, "devices.1.joins=4", "devices.2.joins=1", "federation.cadence.device=4")
        # coach-0 holds its own exercise modules until round 4; nobody has trained those of side before.
        assert ran.rows(3, "downlink") == []
        trained = ran.snapshots[2].devices["coach-0"].kept.keys()
        assert trained >= SIDE
        assert not SIDE & ran.snapshots[1].devices["coach-0"].kept.keys()

    def test_its_computation_is_paid_for_from_then_on(self, run_with_backbone: Run) -> None:
        ran, whole = run_with_backbone("tasks.topic.begins=3", *NETWORK), run_with_backbone(*NETWORK)
        assert {row.source for row in ran.rows(2, "compute")} == {"watch-0", "watch-1", "coach-0"}

        def joules(there: Ran, number: int, device: str) -> float:
            (row,) = (row for row in there.rows(number, "compute") if row.source == device)
            return row.joules or 0.0

        assert joules(ran, 1, "watch-0") == joules(whole, 1, "watch-0")
        assert joules(ran, 1, "coach-0") < joules(whole, 1, "coach-0")
        # With what is frozen of the samples that come first, as if the run had begun then.
        assert joules(ran, 3, "reader-0") == pytest.approx(joules(whole, 1, "reader-0"))


def test_a_run_goes_on_from_before_they_join_as_if_nothing_had_been(run: Run, bare: MakeConfig) -> None:
    ran = run(*SHARED)
    tensors, rest = ran.snapshots[1].flatten()
    runner = LocalRunner(bare(*SHARED))
    runner.restore(Snapshot.unflatten(tensors, rest))
    for number in (3, 4):
        again = runner.round(number)
        assert again.rows == ran.results[number - 1].rows
        assert again.record.loss == ran.results[number - 1].record.loss
    runner.close()
