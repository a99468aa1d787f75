"""The network inside real rounds: training does not notice it, and its ledger adds up.

Of `bare`'s devices fog-0 has watch-0, reader-0 and coach-0, fog-1 watch-1 and reader-1; `tiny`'s are alike. A cell's
devices stand within 10 m of each other, some 100 m from their node, without fading.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch

from fogtune.platform.aggregation import ModuleSum, Tensors, Update
from fogtune.platform.aggregation.tier import TierLogic
from fogtune.platform.config import Config, Power
from fogtune.platform.federation.cohorts import cohorts
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.host import DeviceHost
from fogtune.platform.federation.local_runner import LocalRunner, RoundResult
from fogtune.platform.federation.messages import HostPlan, HostReply, RoundPlan
from fogtune.platform.federation.sizes import message_bytes
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.run.record import LedgerRow
from fogtune.platform.topology_build import build_tree

MakeConfig = Callable[..., Config]

NETWORK = (
    "network.placement.radius_m=150",
    "network.placement.spread_m=5",
    'network.channel={"kind": "log-distance", "shadowing_db": 0}',
    'network.radio={"fading": "none", "least_snr_db": -20}',
)
HEADS = (*NETWORK, 'network.d2d={"heads": true}')
STAR = ("topology.tiers=[]", "network.placement.access_points=2")
"""The same cells, around access points."""
PROCESSOR = '"processor": {"kind": "power", "flops_per_s": 4e9, "power_w": 2}, "speed_spread": 0, "receive_w": 0.3'
QUIET = (
    f'network.classes={{"watch": {{{PROCESSOR}, "transmit_w": 1e-6}}, '
    f'"phone": {{{PROCESSOR}, "transmit_w": 0.2}}, "gateway": {{{PROCESSOR}, "transmit_w": 0.2}}}}'
)
"""Watches whose uplink cannot be used, though they are heard beside them over a narrow band."""
RELAYS = (*NETWORK, QUIET, 'network.d2d={"band_hz": 1e4}')
LOSSY = (*NETWORK, "network.radio.loss=0.6", "network.radio.attempts=2", "federation.quorum=0")
KINDS: Mapping[str, tuple[str, ...]] = {
    "plain": NETWORK,
    "heads": HEADS,
    "relays": RELAYS,
    "star": (*HEADS, *STAR),
    "cadence": (*NETWORK, "federation.cadence.fog=2"),
    "lossy": LOSSY,
}


class Ran:
    """Two rounds of a federation."""

    def __init__(self, config: Config) -> None:
        runner = LocalRunner(config)
        self.config = config
        self.devices = set(build_tree(config).devices)
        self.initial = dict(runner.setup.initial)
        self.results: list[RoundResult] = [runner.round(number) for number in (1, 2)]
        self.snapshot: Snapshot = runner.snapshot()
        runner.close()

    @property
    def rows(self) -> list[LedgerRow]:
        return [row for result in self.results for row in result.rows]

    def decided(self, what: str) -> set[str]:
        """Devices about which this was decided in round 1."""
        return {d["about"] for d in self.results[0].record.decisions if d["what"] == what}


Run = Callable[..., Ran]


Same = Callable[[Snapshot, Snapshot], bool]


@pytest.fixture(scope="module")
def run(bare: MakeConfig) -> Run:
    """Runs two rounds; what was run before is not run again."""
    return cache(lambda *overrides: Ran(bare(*overrides)))


@pytest.fixture(scope="module")
def run_with_backbone(tiny: MakeConfig) -> Run:
    """The same with a backbone, adapters and experts."""
    return cache(lambda *overrides: Ran(tiny(*overrides)))


def same_modules(ours: Mapping[str, Tensors], theirs: Mapping[str, Tensors]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[module][name])
        for module, tensors in ours.items()
        for name, tensor in tensors.items()
    )


def start_s(row: LedgerRow) -> float:
    assert row.start_s is not None
    return row.start_s


def seconds(row: LedgerRow) -> float:
    assert row.seconds is not None
    return row.seconds


def joules(rows: Iterable[LedgerRow]) -> float:
    total = 0.0
    for row in rows:
        assert row.joules is not None
        total += row.joules
    return total


class TestTraining:
    @pytest.mark.parametrize(
        ("ways", "tree", "decided"),
        [
            (NETWORK, (), {}),
            (HEADS, (), {"is headed": {"watch-0", "reader-0"}}),
            (HEADS, STAR, {"is headed": {"watch-0", "reader-0"}}),
            (RELAYS, (), {"is relayed": {"watch-0", "watch-1"}}),
        ],
        ids=["direct", "heads", "heads of a star", "relays"],
    )
    def test_the_way_that_updates_take_changes_no_bit(
        self,
        run_with_backbone: Run,
        ways: tuple[str, ...],
        tree: tuple[str, ...],
        decided: Mapping[str, set[str]],
        same: Same,
    ) -> None:
        without, there = run_with_backbone(*tree[:1]), run_with_backbone(*ways, *tree)
        for what, devices in decided.items():
            assert there.decided(what) == devices
        assert same(there.snapshot, without.snapshot)
        assert not same_modules(there.snapshot.nodes["cloud"].versions, there.initial)  # it has learned
        for ours, theirs in zip(there.results, without.results, strict=True):
            assert (ours.record.loss, ours.record.tasks) == (theirs.record.loss, theirs.record.tasks)

    def test_nor_does_a_robust_rule_notice_a_head(self, run: Run, same: Same) -> None:
        median = "federation.rule.kind=median"
        assert same(run(*HEADS, median).snapshot, run(median).snapshot)

    def test_which_gets_every_update_in_full(self, run: Run) -> None:
        def arriving(ran: Ran) -> Counter[tuple[str, str]]:
            moved = Counter[tuple[str, str]]()
            for row in ran.results[0].rows:
                if row.kind == "uplink":
                    moved[row.target, row.module] += row.bytes
            return moved

        assert arriving(run(*HEADS, "federation.rule.kind=median")) == arriving(run(*NETWORK))

    def test_without_a_network_nothing_costs_anything(self, run: Run) -> None:
        record = run().results[0].record
        assert record.virtual_time_s is record.energy_j is None
        assert {(row.start_s, row.seconds, row.joules) for row in run().rows} == {(None, None, None)}
        assert not [row for row in run().rows if row.kind == "compute"]


@pytest.mark.parametrize("kind", KINDS)
class TestLedger:
    def test_the_round_adds_up_its_rows(self, run: Run, kind: str) -> None:
        for result in run(*KINDS[kind]).results:
            assert result.record.energy_j == pytest.approx(joules(result.rows))
            moved = Counter[str]()
            for row in result.rows:
                moved[row.kind] += row.bytes
            assert {link: count for link, count in result.record.bytes.items() if count} == {
                link: count for link, count in moved.items() if count
            }

    def test_the_clock_stands_where_the_last_row_ends(self, run: Run, kind: str) -> None:
        time_s = 0.0
        for result in run(*KINDS[kind]).results:
            assert result.record.virtual_time_s
            time_s += result.record.virtual_time_s
            assert max(start_s(row) + seconds(row) for row in result.rows) == pytest.approx(time_s)

    def test_computations_move_nothing_and_devices_do_them_once(self, run: Run, kind: str) -> None:
        there = run(*KINDS[kind])
        computed = [row for row in there.rows if row.kind == "compute"]
        assert {(row.source, row.bytes, row.module) for row in computed} == {
            (device, 0, "*") for device in there.devices
        }
        assert all(row.source == row.target and seconds(row) > 0 and joules([row]) > 0 for row in computed)
        assert set(Counter((row.round, row.source) for row in computed).values()) == {1}

    def test_a_device_waits_for_its_modules_and_trains_before_it_sends(self, run: Run, kind: str) -> None:
        there = run(*KINDS[kind])
        for number in (1, 2):
            rows = [row for row in there.rows if row.round == number]
            for trains in (row for row in rows if row.kind == "compute"):
                down = [r for r in rows if r.target == trains.source and r.kind == "downlink"]
                up = [r for r in rows if r.source == trains.source and r.kind in ("uplink", "d2d") and r.hops == 1]
                assert bool(down) == (number == 2)  # version 0 is not sent
                assert all(start_s(r) + seconds(r) <= start_s(trains) + 1e-9 for r in down)
                assert all(start_s(r) >= start_s(trains) + seconds(trains) - 1e-9 for r in up)

    def test_powers_are_in_watts(self, run: Run, kind: str) -> None:
        """Joules are what the configured powers take for a row's seconds, of both ends together."""
        there = run(*KINDS[kind])
        network = there.config.network
        assert network is not None
        groups = {group.name: network.classes[group.device_class] for group in there.config.devices}
        classes = {device: groups[device.rsplit("-", 1)[0]] for device in there.devices}
        together = Counter((row.round, row.source, row.module, row.start_s) for row in there.rows)
        for row in there.rows:
            receive_w = classes[row.target].receive_w if row.target in classes else 0.0
            match row.kind:
                case "compute":
                    processor = classes[row.source].processor
                    assert isinstance(processor, Power)
                    watts = processor.power_w
                case "backhaul":
                    watts = network.backhaul.power_w
                case "downlink":  # the sender's power is shared by all who listen
                    listening = together[row.round, row.source, row.module, row.start_s]
                    watts = network.radio.transmit_w / listening + receive_w
                case _:
                    watts = classes[row.source].transmit_w + receive_w
            assert joules([row]) == pytest.approx(watts * seconds(row))

    def test_no_device_spends_more_than_its_power_for_all_the_time(self, run: Run, kind: str) -> None:
        there = run(*KINDS[kind])
        network = there.config.network
        assert network is not None
        time_s = sum(result.record.virtual_time_s or 0.0 for result in there.results)
        spent_j = there.snapshot.coordinator.spent_j
        assert spent_j.keys() == there.devices
        for group in there.config.devices:
            it = network.classes[group.device_class]
            assert isinstance(it.processor, Power)
            most_w = it.processor.power_w + it.transmit_w + it.receive_w
            for i in range(group.count):
                assert 0 < spent_j[f"{group.name}-{i}"] <= most_w * time_s
        # What is left of the whole is of nodes and wires.
        devices_j = sum(spent_j.values())
        assert devices_j < sum(result.record.energy_j or 0.0 for result in there.results)


@pytest.mark.parametrize(
    "kept", ["federation.cadence.device=2", 'federation.modules=[{"match": "*", "scope": "device"}]']
)
def test_a_device_trains_for_one_round_at_a_time(run: Run, kept: str) -> None:
    there = run(*NETWORK, kept, *(["federation.cadence.fog=2"] if "cadence" in kept else []))
    for device in there.devices:
        one, other = (row for row in there.rows if row.kind == "compute" and row.source == device)
        assert start_s(other) >= start_s(one) + seconds(one)


class TestConservation:
    def test_over_relays_arrives_what_would_have_come_directly(self, run: Run) -> None:
        """Per round and module: what comes in at a relay goes out again, and nothing is lost or doubled."""
        direct, relayed = run(*NETWORK), run(*RELAYS)

        def arriving(ran: Ran) -> Counter[tuple[int, str, str, int]]:
            return Counter((r.round, r.target, r.module, r.bytes) for r in ran.rows if r.kind == "uplink")

        assert arriving(relayed) == arriving(direct)
        own = {(r.round, r.source, r.module): r.bytes for r in direct.rows if r.kind == "uplink"}
        flow = Counter[tuple[int, str, str]]()
        for row in relayed.rows:
            if row.kind in ("uplink", "d2d"):  # all hear their node: between devices everything goes up
                flow[row.round, row.source, row.module] += row.bytes
                flow[row.round, row.target, row.module] -= row.bytes
        devices = relayed.devices
        assert {key: count for key, count in flow.items() if key[1] in devices and count} == own
        hops = Counter(row.hops for row in relayed.rows if row.kind in ("uplink", "d2d"))
        assert hops[2] == 2 * sum(source.startswith("watch") for _, source, _ in own)

    @pytest.mark.parametrize("tree", [(), STAR], ids=["tree", "star"])
    def test_a_head_sends_for_each_module_its_sum_or_the_one_update(self, run: Run, tree: tuple[str, ...]) -> None:
        direct, headed = run(*NETWORK, *tree), run(*HEADS, *tree)
        own = {(r.round, r.source, r.module) for r in direct.rows if r.kind == "uplink"}
        to_heads = {(r.round, r.source, r.module, r.target) for r in headed.rows if r.kind == "d2d"}
        assert to_heads
        assert {member[:3] for member in to_heads} <= own
        behind = Counter((number, head, module) for number, _, module, head in to_heads)
        going_up = own - {member[:3] for member in to_heads} | set(behind)
        uplinks = [r for r in headed.rows if r.kind == "uplink"]
        assert {(r.round, r.source, r.module) for r in uplinks} == going_up
        assert len(uplinks) == len(going_up)
        for row in uplinks:
            key = (row.round, row.source, row.module)
            contributors = behind[key] + (key in own)
            dtype = torch.int64 if contributors > 1 else torch.float32
            assert row.bytes == message_bytes(headed.initial[row.module], dtype)

    def test_access_points_forward_all_that_they_hear(self, run: Run) -> None:
        star = run(*NETWORK, *STAR)
        assert star.snapshot.nodes.keys() == {"cloud"}
        for point in ("ap-0", "ap-1"):
            heard = Counter((r.round, r.module, r.bytes) for r in star.rows if r.target == point and r.kind == "uplink")
            passed = Counter(
                (r.round, r.module, r.bytes) for r in star.rows if r.source == point and r.target == "cloud"
            )
            assert heard == passed
            assert heard
            down = {(r.round, r.module) for r in star.rows if r.source == point and r.kind == "downlink"}
            got = Counter((r.round, r.module) for r in star.rows if r.source == "cloud" and r.target == point)
            assert set(got) == down
            assert set(got.values()) == {1}  # once for the whole cell

    def test_every_attempt_is_received_or_lost(self, run: Run) -> None:
        lossy = run(*LOSSY)
        for result in lossy.results:
            lost = {d["about"] for d in result.record.decisions if d["what"] == "is lost"}
            attempts: dict[tuple[str, str, str, str], list[LedgerRow]] = {}
            for row in sorted(result.rows, key=start_s):
                if row.kind in ("uplink", "downlink"):
                    attempts.setdefault((row.kind, row.source, row.target, row.module), []).append(row)
                else:
                    assert not row.lost
            for (kind, source, _, _), rows in attempts.items():
                arrives = not (kind == "uplink" and source in lost)
                assert [row.lost for row in rows] == [True] * (len(rows) - 1) + [not arrives]
                assert len({row.bytes for row in rows}) == 1
                if kind == "uplink":
                    assert len(rows) == 2 or (len(rows) == 1 and arrives)
            assert any(len(rows) > 1 for rows in attempts.values())


class TestResume:
    RESUMED = (*HEADS, "network.radio.fading=rayleigh", "network.radio.loss=0.3", "federation.quorum=0")

    def test_a_run_goes_on_where_it_was(self, tiny: MakeConfig, same: Same) -> None:
        config = tiny(*self.RESUMED)
        straight = LocalRunner(config)
        first = straight.round(1)
        tensors, rest = straight.snapshot().flatten()
        stored = json.loads(json.dumps(rest))
        second = straight.round(2)
        straight.close()
        resumed = LocalRunner(config)
        resumed.restore(Snapshot.unflatten(tensors, stored))
        again = resumed.round(2)
        after = resumed.snapshot()
        resumed.close()
        assert again.rows == second.rows
        assert replace(again.record, wall_s=0) == replace(second.record, wall_s=0)
        assert same(after, straight.snapshot())
        assert after.coordinator == straight.snapshot().coordinator
        # The clock has gone on: nothing of round 2 happens before the first node was ready.
        assert min(map(start_s, second.rows)) >= min(stored["coordinator"]["ready_s"].values()) > 0
        assert {row.start_s for row in second.rows}.isdisjoint(row.start_s for row in first.rows)


def test_lost_updates_are_counted_and_their_energy_too(run: Run) -> None:
    there = run(*LOSSY)
    counted = []
    for result in there.results:
        lost = {d["about"] for d in result.record.decisions if d["what"] == "is lost"}
        in_vain = [row for row in result.rows if row.kind == "uplink" and row.source in lost]
        assert {row.source for row in in_vain} == lost
        assert all(row.lost for row in in_vain)
        assert (joules(in_vain) > 0) == bool(lost)
        assert result.record.updates_lost == result.record.dropped == len(lost)
        assert ("2 attempts in vain" in (result.lost or "")) == bool(lost)
        assert result.record.energy_j == pytest.approx(joules(result.rows))
        assert result.record.bytes["uplink"] == sum(row.bytes for row in result.rows if row.kind == "uplink")
        counted.append(len(lost))
    assert there.snapshot.coordinator.updates_lost == sum(counted) > 0
    assert sum(counted) < 10


def host(config: Config) -> tuple[DeviceHost, RoundPlan, HostReply]:
    """A host of all devices, and its answer to the plan of round 1."""
    host = DeviceHost(config)
    coordinator = Coordinator(config, host.setup())
    tree = coordinator.tree
    initial = coordinator.setup.initial
    logic = {node: TierLogic(config, tree, coordinator.ownership, node) for node in tree.aggregators}
    plan = coordinator.plan(1)
    alone = HostPlan(1, plan.personal, tuple(cohorts(config, tree, plan, coordinator.setup.cohort)))
    return host, plan, host.train(alone, {node: one.initial(initial).versions for node, one in logic.items()}, {})


def test_a_host_adds_up_by_head(tiny: MakeConfig) -> None:
    _, plan, headed = host(tiny(*HEADS))
    assert {order.device: order.receiver("fog") for order in plan.orders} == {
        "watch-0": "coach-0",
        "reader-0": "coach-0",
        "coach-0": "coach-0",
        "watch-1": "fog",
        "reader-1": "fog",
    }
    assert headed.updates.keys() == {"coach-0", "fog-1"}
    _, _, direct = host(tiny())
    cluster = headed.updates["coach-0"]
    assert same_update(cluster, direct.updates["fog-0"])
    assert same_update(headed.updates["fog-1"], direct.updates["fog-1"])
    readers = cluster.modules["head/topic"]
    assert isinstance(readers, ModuleSum)
    assert readers.contributors == 2  # reader-0 and coach-0


def same_update(ours: Update, theirs: Update) -> bool:
    return ours.metrics == theirs.metrics and ours.modules == theirs.modules
