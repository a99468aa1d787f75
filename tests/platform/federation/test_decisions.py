"""Who sits a round out, who relays and who adds up for others, decided from what the round would cost.

Readers have phones and send one module of a megabit. All stand within 1 m of their node, so links have the gain of 1 m:
phones send 2 Mbit/s when they have the uplink of 1 MHz to themselves (an SNR of 3), two at once 0.5 log2(1 + 6) =
1.404 Mbit/s each, three log2(1 + 9) / 3 = 1.107, four log2(1 + 12) / 4 = 0.925. The node sends 3 Mbit/s to all of them.
Wires take no time worth mentioning; training takes a second for each 100 operations, with 4 W.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from fogtune import preset
from fogtune.platform.errors import RunFailed
from fogtune.platform.federation.accounting import Accountant, Booked
from fogtune.platform.federation.cooperation import Cooperation
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.messages import DeviceReport, RoundPlan, Setup, Workload
from fogtune.platform.federation.script import Moves
from fogtune.platform.federation.sizes import message_bytes
from fogtune.platform.modules import module_names
from fogtune.platform.network.actions import Cost, Script
from fogtune.platform.run.record import RoundRecord

HEAD = "head/topic"
MEGABIT = 125_000  # bytes
DOWN_S, UP_S = 1 / 3, 1 / 2
ONE_FOG = "topology.tiers.0.count=1"
PHONE = (
    '{"processor": {"kind": "power", "flops_per_s": 100, "power_w": 4}, "speed_spread": 0, '
    '"transmit_w": 3e-4, "receive_w": 0.1}'
)
QUIET = PHONE.replace("3e-4", "1e-5")
"""A class that is heard at an SNR of 0.1 over 1 MHz: -10 dB. Over the 100 kHz of `D2D` it is 1, 100 kbit/s."""
D2D = 'network.d2d={"band_hz": 1e5}'
READER = '{"name": "reader", "count": 1, "modalities": ["text"], "tasks": ["topic"]}'
BASE = (
    "local.epochs=1",
    "model.encoders={}",
    'tasks={"topic": {"source": "news", "inputs": ["text"], "label": "topic"}}',
    'sources={"news": {"kind": "embedded", "asset": "bbc-news", "samples_per_device": 10}}',
    f'federation.modules=[{{"match": "*", "scope": "device"}}, {{"match": "{HEAD}", "scope": "cloud"}}]',
    "network.placement.radius_m=0.1",
    "network.placement.spread_m=0.1",
    'network.channel={"kind": "log-distance", "reference_loss_db": 104, "shadowing_db": 0}',
    'network.radio={"uplink_hz": 1e6, "downlink_hz": 1e6, "transmit_w": 7e-4, "noise_figure_db": 0, "fading": "none"}',
    'network.backhaul={"bits_per_s": 1e12, "delay_s": 0}',
    f'network.classes={{"phone": {PHONE}, "quiet": {QUIET}}}',
)


def coordinate(*overrides: str, readers: int = 4, flops: Mapping[str, float] | None = None) -> Coordinator:
    """Readers under one fog node, where nothing else is said; each trains for a second, where nothing else is said."""
    config = preset("smoke", *BASE, ONE_FOG, f"devices=[{READER}]", f"devices.0.count={readers}", *overrides)
    initial = {module: {"weight": torch.zeros(1)} for module in module_names(config)}
    initial[HEAD] = {"weight": torch.zeros(31_230)}
    assert message_bytes(initial[HEAD]) == MEGABIT
    loads = {f"{g.name}-{i}": 100.0 for g in config.devices for i in range(g.count)} | {**(flops or {})}
    workloads = {device: (Workload("topic", 1, operations, 0),) for device, operations in loads.items()}
    coordinator = Coordinator(config, Setup(initial, {"topic": 1}, {}, None, workloads))
    for stamps in coordinator.state.stamps.values():  # so that there is something to fetch in round 1
        stamps[HEAD] = -1
    return coordinator


def participants(plan: RoundPlan) -> list[str]:
    return [order.device for order in plan.orders]


def reasons(plan: RoundPlan) -> dict[str, str]:
    """Device -> what was decided about it and why."""
    return {decision.about: f"{decision.what}: {decision.why}" for decision in plan.decisions}


def play(coordinator: Coordinator, plan: RoundPlan) -> tuple[Script, list[Cost]]:
    """The plan as it is carried out if all send all that they may."""
    moves = Moves({order.device: order.upward for order in plan.orders}, {}, {})
    script = coordinator.costs.script(plan.round, plan.orders, moves, plan.first, coordinator.state.trained)
    return script, coordinator.costs.play(plan.round, script, coordinator.state.ready_s)[0]


def arrivals_s(coordinator: Coordinator, plan: RoundPlan) -> dict[str, float]:
    script, costs = play(coordinator, plan)
    return {device: costs[index].end_s for device, index in script.delivered.items()}


def book(coordinator: Coordinator, plan: RoundPlan) -> Booked:
    """The round, if nothing fails but what the plan says."""
    reports = [DeviceReport(o.device, o.lost, sent=() if o.lost else o.upward) for o in plan.orders]
    return Accountant(coordinator).book(plan, reports, {}, {}, Cooperation())


SLOW = {"reader-0": 100.0, "reader-1": 200.0, "reader-2": 300.0, "reader-3": 400.0}
AT_ONCE = dict.fromkeys(SLOW, 0.0)


class TestDeadline:
    def test_without_one_all_are_waited_for(self) -> None:
        coordinator = coordinate(flops=SLOW)
        plan = coordinator.plan(1)
        assert len(plan.orders) == 4
        assert plan.decisions == ()
        expected_s = [DOWN_S + training_s + UP_S for training_s in (1, 2, 3, 4)]
        assert list(arrivals_s(coordinator, plan).values()) == pytest.approx(expected_s, rel=1e-4)

    def test_it_drops_who_trains_too_long_and_nobody_else(self) -> None:
        coordinator = coordinate("network.deadline_s=3", flops=SLOW)
        plan = coordinator.plan(1)
        assert participants(plan) == ["reader-0", "reader-1"]
        assert reasons(plan) == {
            "reader-3": "sits out: its update would come after 4.83 s, network.deadline_s is 3",
            "reader-2": "sits out: its update would come after 3.83 s, network.deadline_s is 3",
        }
        assert max(arrivals_s(coordinator, plan).values()) <= 3

    @pytest.mark.parametrize(
        ("deadline_s", "left"),
        [
            (1.5, 4),  # together 1/3 + 1/0.925 = 1.415 s
            (1.4, 2),  # the later half goes, though three would have made it in 1/3 + 1/1.107 = 1.236 s
            (1.2, 2),  # two make it in 1/3 + 1/1.404 = 1.046 s
            (1.0, 1),  # one makes it in 1/3 + 1/2 = 0.833 s
        ],
    )
    def test_without_the_later_half_the_others_have_more_band(self, deadline_s: float, left: int) -> None:
        coordinator = coordinate(f"network.deadline_s={deadline_s}", flops=AT_ONCE)
        plan = coordinator.plan(1)
        assert len(plan.orders) == left
        assert set(reasons(plan)) == set(AT_ONCE) - set(participants(plan))
        arrival_s = {1: 5 / 6, 2: 1.0457, 4: 1.4142}[left]
        assert list(arrivals_s(coordinator, plan).values()) == pytest.approx([arrival_s] * left, rel=1e-4)

    def test_the_later_half_is_that_of_a_cell(self) -> None:
        listed = (
            'topology={"kind": "listed", "tree": {"east": ["reader-0", "reader-1"], "west": ["reader-2", "reader-3"]}}'
        )
        # In pairs it takes 1.046 s, alone 0.833 s; the east is 0.1 s later, so both of it are in the later half of all.
        later = {"reader-0": 10.0, "reader-1": 10.0, "reader-2": 0.0, "reader-3": 0.0}
        assert participants(coordinate(listed, "network.deadline_s=1", flops=later).plan(1)) == ["reader-0", "reader-2"]

    def test_it_counts_from_when_the_node_begins(self) -> None:
        coordinator = coordinate("network.deadline_s=3", flops=SLOW)
        coordinator.state.ready_s = {"fog-0": 100.0}
        plan = coordinator.plan(2)
        assert participants(plan) == ["reader-0", "reader-1"]
        assert arrivals_s(coordinator, plan)["reader-1"] == pytest.approx(100 + DOWN_S + 2 + UP_S)
        assert reasons(plan)["reader-2"] == "sits out: its update would come after 3.83 s, network.deadline_s is 3"

    def test_where_nobody_meets_it_the_run_fails_in_one_line(self) -> None:
        with pytest.raises(RunFailed) as failed:
            coordinate("network.deadline_s=0.8", flops=AT_ONCE).plan(1)
        assert str(failed.value).startswith(
            "round 1: no device can take part; reader-2: its update would come after 1.41 s, network.deadline_s is 0.8"
        )
        assert str(failed.value).endswith("0.8 and 1 more")
        assert "\n" not in str(failed.value)


TWO_SECONDS = {"reader-0": 200.0, "reader-1": 200.0}


class TestBattery:
    """Two readers train for two seconds, 8 J; receiving takes 0.1 W for 1/3 s, 0.033 J, sending next to nothing."""

    def spent(self, battery_j: float, **spent_j: float) -> Coordinator:
        power = f"network.classes.phone.battery_j={battery_j}"
        coordinator = coordinate(power, readers=2, flops=TWO_SECONDS)
        coordinator.state.spent_j = {name.replace("_", "-"): joules for name, joules in spent_j.items()}
        return coordinator

    def test_who_has_enough_takes_part(self) -> None:
        plan = self.spent(20, reader_0=11.9, reader_1=8).plan(1)
        assert participants(plan) == ["reader-0", "reader-1"]
        assert plan.decisions == ()

    def test_who_has_too_little_sits_out_and_says_so(self) -> None:
        plan = self.spent(20, reader_0=12.1, reader_1=11.9).plan(1)
        assert participants(plan) == ["reader-1"]
        assert reasons(plan) == {
            "reader-0": "sits out: the round would take 8.03 J, its battery has 7.9 J of 20 J left"
        }

    def test_a_round_is_booked_on_the_battery(self) -> None:
        coordinator = self.spent(20)
        for number in (1, 2):
            plan = coordinator.plan(number)
            booked = book(coordinator, plan)
            assert booked.spent_j == pytest.approx(dict.fromkeys(TWO_SECONDS, 8 + DOWN_S * 0.1), abs=1e-3)
            coordinator.conclude(plan, booked.ready_s, booked.spent_j, {})
        with pytest.raises(RunFailed, match=r"the round would take 8\.03 J, its battery has 3\.93 J of 20 J left"):
            coordinator.plan(3)

    def test_on_the_mains_nothing_runs_out(self) -> None:
        coordinator = coordinate(readers=2, flops=TWO_SECONDS)
        coordinator.state.spent_j = dict.fromkeys(TWO_SECONDS, 1e9)
        assert len(coordinator.plan(1).orders) == 2

    def test_where_nobody_has_enough_the_run_fails_in_one_line(self) -> None:
        with pytest.raises(RunFailed) as failed:
            self.spent(5, reader_1=6).plan(1)
        assert str(failed.value) == (
            "round 1: no device can take part; "
            "reader-0: the round would take 8.03 J, its battery has 5 J of 5 J left; "
            "reader-1: the round would take 8.03 J, its battery has 0 J of 5 J left"
        )


QUIET_ONE = (
    f"devices=[{READER}, {READER.replace('reader', 'sensor')}]",
    "devices.0.count=1",
    "devices.1.device_class=quiet",
    "network.radio.least_snr_db=-5",
)
"""A reader, and a sensor that its node does not hear."""


class TestRelays:
    def test_who_is_not_heard_sits_out_without_other_devices(self) -> None:
        plan = coordinate(*QUIET_ONE).plan(1)
        assert participants(plan) == ["reader-0"]
        assert reasons(plan) == {
            "sensor-0": "sits out: it does not reach fog-0 (signal to noise -10.0 dB and 8.5 dB up and down, "
            "network.radio.least_snr_db is -5), and there is no network.d2d"
        }

    @pytest.mark.parametrize("unlike", ["network.d2d.range_m=1e-9", "network.d2d.relay=false"])
    def test_and_without_one_that_may_relay(self, unlike: str) -> None:
        plan = coordinate(*QUIET_ONE, D2D, unlike).plan(1)
        assert participants(plan) == ["reader-0"]
        assert reasons(plan)["sensor-0"].endswith("and no other device that does is in reach")

    def test_nobody_heard_is_nobody_left(self) -> None:
        with pytest.raises(RunFailed) as failed:
            coordinate(*QUIET_ONE, "network.radio.least_snr_db=5").plan(1)
        assert str(failed.value) == (
            "round 1: no device can take part; "
            "reader-0: it does not reach fog-0 (signal to noise 4.8 dB and 8.5 dB up and down, "
            "network.radio.least_snr_db is 5), and there is no network.d2d; "
            "sensor-0: it does not reach fog-0 (signal to noise -10.0 dB and 8.5 dB up and down, "
            "network.radio.least_snr_db is 5), and there is no network.d2d"
        )

    def test_another_device_takes_its_update_along(self) -> None:
        coordinator = coordinate(*QUIET_ONE, D2D)
        plan = coordinator.plan(1)
        reader, sensor = plan.orders
        assert (reader.relays, reader.head, reader.sources) == ((), None, {})
        assert (sensor.relays, sensor.head, sensor.sources) == (("reader-0",), None, {})  # it hears its node
        assert reasons(plan) == {"sensor-0": "is relayed: its update goes up over reader-0: the cheapest way"}

    def test_its_hops_and_bytes_are_booked(self) -> None:
        coordinator = coordinate(*QUIET_ONE, D2D)
        booked = book(coordinator, coordinator.plan(1))
        rows = [row for row in booked.rows if row.kind in ("uplink", "d2d")]
        assert [(row.source, row.target, row.module, row.bytes, row.hops) for row in rows] == [
            ("reader-0", "fog-0", HEAD, MEGABIT, 1),
            ("sensor-0", "reader-0", HEAD, MEGABIT, 2),
            ("reader-0", "fog-0", HEAD, MEGABIT, 2),
        ]
        trained_s = DOWN_S + 1
        times_s = [row.start_s for row in rows] + [row.seconds for row in rows]
        # A megabit at 100 kbit/s takes 10 s; it has the uplink to itself when it gets there.
        assert times_s == pytest.approx([trained_s, trained_s, trained_s + 10, UP_S, 10, UP_S], rel=1e-4)
        joules = [UP_S * 3e-4, 10 * (1e-5 + 0.1), UP_S * 3e-4]
        assert [row.joules for row in rows] == pytest.approx(joules, rel=1e-3)
        assert booked.spent_j["reader-0"] == pytest.approx(4 + DOWN_S * 0.1 + 10 * 0.1, rel=1e-3)

    def test_who_sits_out_does_not_relay(self) -> None:
        # With 4.5 J left a reader has enough for its own round, 4.03 J, and not for another 10 s of receiving.
        two = (*QUIET_ONE, D2D, "devices.0.count=2", "network.classes.phone.battery_j=10")
        (relay,) = coordinate(*two).plan(1).orders[2].relays
        other = {"reader-0": "reader-1", "reader-1": "reader-0"}[relay]
        coordinator = coordinate(*two)
        coordinator.state.spent_j = {relay: 5.5}
        plan = coordinator.plan(1)
        assert participants(plan) == [other, "sensor-0"]
        assert plan.orders[1].relays == (other,)
        why = "the round would take 5.03 J, its battery has 4.5 J of 10 J left"
        assert reasons(plan)[relay] == f"sits out: {why}"

    def test_nor_does_one_with_an_empty_battery_that_is_not_asked_to_take_part(self) -> None:
        half = (*QUIET_ONE, D2D, "federation.participation=0.5", "network.classes.phone.battery_j=10")
        coordinator = coordinate(*half)
        number = next(n for n in range(2, 99) if participants(coordinator.plan(n)) == ["sensor-0"])
        assert coordinator.plan(number).orders[0].relays == ("reader-0",)
        coordinator.state.spent_j = {"reader-0": 9.5}  # 1 J for receiving is too much
        with pytest.raises(RunFailed, match=r"reader-0: the round would take 1 J, its battery has 0\.5 J of 10 J left"):
            coordinator.plan(number)

    def test_who_does_not_hear_its_node_gets_its_downloads_over_others_too(self) -> None:
        # Spread out, all with the same power: the device that is heard worst hears worst.
        spread = (
            "network.placement.spread_m=300",
            "network.channel.reference_loss_db=null",
            "network.radio.transmit_w=0.2",
            "network.classes.phone.transmit_w=0.2",
        )
        network = coordinate(*spread).costs.network
        assert network is not None
        snr_db = {f"reader-{i}": 10 * math.log10(network.snr(1, f"reader-{i}", "fog-0")) for i in range(4)}
        worst, second = sorted(snr_db, key=snr_db.__getitem__)[:2]
        least = f"network.radio.least_snr_db={(snr_db[worst] + snr_db[second]) / 2}"
        coordinator = coordinate(*spread, least, 'network.d2d={"band_hz": 1e3, "range_m": 1e4}')
        plan = coordinator.plan(1)
        (order,) = (order for order in plan.orders if order.device == worst)
        assert order.sources[HEAD] == (*order.relays, "fog-0") != ("fog-0",)
        way = [order.device, *order.relays, "fog-0"]
        hops = len(way) - 1
        booked = {(r.kind, r.source, r.target, r.hops, r.bytes) for r in book(coordinator, plan).rows}
        for i, (below, above) in enumerate(pairwise(way)):
            assert ("uplink" if i == hops - 1 else "d2d", below, above, hops, MEGABIT) in booked
            assert ("downlink" if i == hops - 1 else "d2d", above, below, hops, MEGABIT) in booked

    def test_downloads_come_over_links_that_can_be_used(self) -> None:
        # Readers are heard farther than they hear the sensors, which send with a twentieth of their power.
        powers = {"phone": PHONE.replace("3e-4", "2e-2"), "quiet": PHONE.replace("3e-4", "1e-3")}
        apart = (
            "seed=2",  # reader-0 is heard by sensor-1, which hears the node that reader-0 does not hear
            "network.placement.radius_m=300",
            "network.placement.spread_m=300",
            "network.channel.reference_loss_db=null",
            "network.radio.transmit_w=2e-3",
            'network.d2d={"band_hz": 1e6, "range_m": 1e4}',
            *(f"network.classes.{name}={power}" for name, power in powers.items()),
            *(f"devices.{i}.count=3" for i in (0, 1)),
        )
        coordinator = coordinate(*QUIET_ONE, *apart, "network.radio.least_snr_db=0")
        network = coordinator.costs.network
        assert network is not None
        assert not network.rate_bits_per_s(1, "fog-0", "reader-0")
        script, _ = play(coordinator, coordinator.plan(1))
        for action in script.actions:
            if action.kind in ("uplink", "downlink", "d2d"):
                for target in action.targets:
                    assert network.rate_bits_per_s(1, action.source, target) > 0


class TestHeads:
    """Four readers: alone 4 * 0.5 us a bit. Over 10 MHz of their own they reach each other at 10 log2(1.3) = 3.79
    Mbit/s, so with a head and a sum of twice the bits it is 3 * 0.264 + 2 * 0.5 = 1.79."""

    HEADS = 'network.d2d={"band_hz": 1e7, "heads": true}'

    def test_one_adds_up_for_the_others(self) -> None:
        coordinator = coordinate(self.HEADS)
        plan = coordinator.plan(1)
        assert [order.receiver("fog-0") for order in plan.orders] == ["reader-0"] * 4
        assert reasons(plan) == {
            f"reader-{i}": "is headed: reader-0 adds its update up: less airtime for all" for i in (1, 2, 3)
        }
        booked = book(coordinator, plan)
        (total,) = (row for row in booked.rows if row.kind == "uplink")
        assert (total.source, total.bytes) == ("reader-0", message_bytes({"weight": torch.zeros(31_230)}, torch.int64))
        assert [(r.source, r.target, r.bytes) for r in booked.rows if r.kind == "d2d"] == [
            (f"reader-{i}", "reader-0", MEGABIT) for i in (1, 2, 3)
        ]

    def test_three_are_too_few(self) -> None:
        plan = coordinate(self.HEADS, readers=3).plan(1)  # 2 * 0.264 + 1 is more than 3 * 0.5
        assert [order.receiver("fog-0") for order in plan.orders] == ["fog-0"] * 3

    def test_they_take_turns(self) -> None:
        coordinator = coordinate(self.HEADS)
        served = []
        for number in range(1, 6):
            plan = coordinator.plan(number)
            (head,) = {order.receiver("fog-0") for order in plan.orders}
            served.append(head)
            coordinator.conclude(plan, {}, {}, {})
        assert served == [f"reader-{i}" for i in (0, 1, 2, 3, 0)]

    def test_who_has_more_charge_left_serves_again_first(self) -> None:
        coordinator = coordinate(self.HEADS, "network.classes.phone.battery_j=100")
        coordinator.state.headed = {f"reader-{i}": 1 for i in range(4)}
        coordinator.state.spent_j = {"reader-0": 50.0, "reader-1": 40.0, "reader-2": 30.0, "reader-3": 40.0}
        assert {order.receiver("fog-0") for order in coordinator.plan(2).orders} == {"reader-2"}

    def test_who_is_not_heard_has_a_head_where_nobody_relays(self) -> None:
        plan = coordinate(*QUIET_ONE, D2D, "network.d2d.relay=false", "network.d2d.heads=true").plan(1)
        assert [order.receiver("fog-0") for order in plan.orders] == ["reader-0", "reader-0"]
        assert plan.orders[1].relays == ()


class TestLostUpdates:
    def lossy(self, attempts: int, loss: float = 0.5) -> Coordinator:
        return coordinate(f"network.radio.loss={loss}", f"network.radio.attempts={attempts}", readers=12)

    def test_who_is_given_up_is_known_before_the_round(self) -> None:
        coordinator = self.lossy(attempts=1)
        plan = coordinator.plan(1)
        assert len(plan.orders) == 12  # they send all the same
        lost = {order.device: order.lost for order in plan.orders if order.lost}
        assert 0 < len(lost) < 12  # one in 2^11 otherwise, and always the same
        assert lost == {device: f"lost on its way from {device} to fog-0: 1 attempts in vain" for device in lost}
        assert reasons(plan) == {device: f"is lost: {why}" for device, why in lost.items()}
        attempts = [row for row in book(coordinator, plan).rows if row.kind == "uplink"]
        assert {row.source for row in attempts if row.lost} == set(lost)
        assert len(attempts) == 12

    def test_what_goes_over_one_link_is_lost_each_for_itself(self) -> None:
        once = ("network.radio.loss=0.5", "network.radio.attempts=1")
        coordinator = coordinate(*QUIET_ONE, D2D, *once)
        fates = set()
        for number in range(2, 42):
            reader, sensor = coordinator.plan(number).orders
            if sensor.lost is None or "reader-0 to fog-0" in sensor.lost:
                fates.add((reader.lost is None, sensor.lost is None))
        assert fates == {(True, True), (True, False), (False, True), (False, False)}  # a quarter of some 20 each

    def test_more_attempts_lose_fewer(self) -> None:
        def lost(attempts: int) -> set[str]:
            return {order.device for order in self.lossy(attempts).plan(1).orders if order.lost}

        assert lost(1) > lost(2) > lost(12) == set()


def test_what_was_decided_is_in_the_record() -> None:
    coordinator = coordinate(*QUIET_ONE, D2D, "network.deadline_s=9")  # the way over the reader takes 11.8 s
    plan = coordinator.plan(1)
    reports = [DeviceReport(order.device, None, sent=order.upward) for order in plan.orders]
    record = Accountant(coordinator).record(plan, reports, {}, book(coordinator, plan), {}, {}, 0.0)
    assert record.participants == 1
    why = "its update would come after 11.8 s, network.deadline_s is 9"
    assert record.decisions == [{"about": "sensor-0", "what": "sits out", "why": why}]
    assert RoundRecord.from_json(record.to_json()) == record


def test_who_a_round_does_not_reach_goes_on_as_it_was() -> None:
    listed = 'topology={"kind": "listed", "tree": {"east": ["reader-0"], "west": ["reader-1"]}}'
    coordinator = coordinate(listed, readers=2)
    plan = replace(coordinator.plan(2), orders=coordinator.plan(2).orders[:1])
    script, _ = play(coordinator, plan)
    _, ready_s = coordinator.costs.play(2, script, {"east": 5.0, "west": 7.0})
    assert "west" not in ready_s
    assert ready_s["east"] == pytest.approx(5 + DOWN_S + 1 + UP_S)


def test_plans_are_values_that_do_not_depend_on_what_was_asked_before() -> None:
    """A run that is continued plans as one that was never stopped."""
    fading = (TestHeads.HEADS, "network.radio.fading=rayleigh", "network.radio.loss=0.3", "network.deadline_s=4")
    straight = coordinate(*fading)
    plans = [straight.plan(number) for number in (1, 2, 3)]
    assert coordinate(*fading).plan(3) == plans[2]
    assert len({json.dumps(reasons(plan)) for plan in plans}) > 1  # the channel changes
