"""The coordinator's decisions: who takes part, what is fetched and sent, the quorum, versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from fogtune.platform.config import Config
from fogtune.platform.errors import RunFailed
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.messages import DeviceOrder, DeviceReport, RoundPlan, Setup
from fogtune.platform.federation.state import OWN
from fogtune.platform.modules import module_names

MakeConfig = Callable[..., Config]
PERSONAL_HEADS = 'federation.modules=[{"match": "head/*", "scope": "device"}]'


def coordinate(config: Config, held_out: int = 50) -> Coordinator:
    """A coordinator of made-up modules: it never looks into them."""
    initial = {module: {"weight": torch.zeros(1)} for module in module_names(config)}
    return Coordinator(config, Setup(initial, dict.fromkeys(config.tasks, held_out), {}, None))


def order_of(plan: RoundPlan, device: str) -> DeviceOrder:
    (found,) = (order for order in plan.orders if order.device == device)
    return found


def answer(order: DeviceOrder, kept: Sequence[str] = (), experts: Sequence[int] = (0, 2)) -> DeviceReport:
    return DeviceReport(order.device, None, sent=order.upward, kept=tuple(kept), experts=tuple(experts))


def finish(coordinator: Coordinator, plan: RoundPlan, reports: Sequence[DeviceReport]) -> None:
    """Take note of a round in which everything that was sent reached the cloud."""
    coordinator.note_devices(plan, reports)
    coordinator.descend(plan.round, {"cloud": list(dict.fromkeys(m for r in reports for m in r.sent))})


class TestPlan:
    def test_everybody_takes_part_by_default(self, tiny: MakeConfig) -> None:
        coordinator = coordinate(tiny())
        for number in (1, 2):
            assert tuple(order.device for order in coordinator.plan(number).orders) == coordinator.tree.devices

    def test_a_share_is_drawn_anew_each_round_and_the_same_each_time(self, tiny: MakeConfig) -> None:
        config = tiny("federation.participation=0.4", "devices.0.count=7")
        drawn = [[o.device for o in coordinate(config).plan(number).orders] for number in range(1, 13)]
        again = [[o.device for o in coordinate(config).plan(number).orders] for number in range(1, 13)]
        assert drawn == again
        assert {len(devices) for devices in drawn} == {4}  # of 10
        assert len({tuple(devices) for devices in drawn}) > 6
        assert {device for devices in drawn for device in devices} == set(coordinate(config).tree.devices)
        order = coordinate(config).tree.devices.index
        assert all(devices == sorted(devices, key=order) for devices in drawn)

    def test_at_least_one_takes_part(self, tiny: MakeConfig) -> None:
        assert len(coordinate(tiny("federation.participation=0.01")).plan(1).orders) == 1

    def test_a_device_is_given_the_modules_that_it_owns(self, tiny: MakeConfig) -> None:
        order = order_of(coordinate(tiny()).plan(1), "reader-0")
        experts = [f"expert/{k}" for k in range(4)]
        assert list(order.modules) == ["prompt/topic", "adapter/fusion", "router/fusion", *experts, "head/topic"]
        assert order.upward == order.modules
        assert order.fetched == ()  # version 0 it makes itself

    def test_only_new_versions_are_fetched(self, tiny: MakeConfig) -> None:
        coordinator = coordinate(tiny())
        plan = coordinator.plan(1)
        reports = [answer(order) for order in plan.orders if order.device != "coach-0"]
        coordinator.note_devices(plan, reports)
        coordinator.descend(1, {"cloud": ["head/topic", "expert/0"]})
        fetched = order_of(coordinator.plan(2), "reader-0").fetched
        assert [m for m in fetched if not m.startswith("expert/")] == ["head/topic"]
        assert "expert/0" in fetched
        assert "expert/2" not in fetched
        assert "head/topic" in order_of(coordinator.plan(2), "coach-0").fetched  # its update was lost

    def test_a_device_holds_the_experts_that_it_used_and_tries_others(self, tiny: MakeConfig) -> None:
        coordinator = coordinate(tiny("model.experts.count=8", "model.experts.explore=2"))
        plan = coordinator.plan(1)
        assert order_of(plan, "reader-0").experts == tuple(range(8))
        tried = set()
        for number in range(1, 12):
            plan = coordinator.plan(number)
            finish(coordinator, plan, [answer(order) for order in plan.orders])
            order = order_of(coordinator.plan(number + 1), "reader-0")
            assert {0, 2} < set(order.experts)
            assert len(order.experts) == 4
            idle = {f"expert/{k}" for k in range(8) if k not in order.experts}
            assert not idle & {*order.modules, *order.fetched, *order.upward}
            tried |= set(order.experts)
        assert tried == set(range(8))

    def test_a_device_that_used_no_expert_is_given_all(self, tiny: MakeConfig) -> None:
        coordinator = coordinate(tiny("model.experts.explore=0"))
        plan = coordinator.plan(1)
        finish(coordinator, plan, [answer(order, experts=()) for order in plan.orders])
        assert order_of(coordinator.plan(2), "reader-0").experts == (0, 1, 2, 3)

    def test_a_personal_module_neither_comes_nor_goes(self, tiny: MakeConfig) -> None:
        coordinator = coordinate(tiny(PERSONAL_HEADS))
        for number in (1, 2):
            plan = coordinator.plan(number)
            order = order_of(plan, "reader-0")
            assert "head/topic" in order.modules
            assert not {"head/topic"} & {*order.fetched, *order.upward}
            finish(coordinator, plan, [answer(o, kept=["head/topic"]) for o in plan.orders])
            assert coordinator.state.held["reader-0"]["head/topic"] == OWN

    def test_what_is_not_due_stays_on_the_device_and_is_not_fetched(self, tiny: MakeConfig) -> None:
        coordinator = coordinate(tiny("federation.cadence.device=2", "federation.cadence.fog=2"))
        plan = coordinator.plan(1)
        assert all(order.upward == () for order in plan.orders)
        finish(coordinator, plan, [answer(o, kept=o.modules) for o in plan.orders])
        order = order_of(coordinator.plan(2), "watch-0")
        assert order.fetched == ()
        assert order.upward == order.modules

    def test_rounds_are_evaluated_as_often_as_asked_and_at_the_end(self, tiny: MakeConfig) -> None:
        coordinator = coordinate(tiny("rounds=7", "evaluation.every=3"))
        assert [number for number in range(1, 8) if coordinator.plan(number).evaluate] == [3, 6, 7]
        assert not any(coordinate(tiny("evaluation.personal=false")).plan(n).personal for n in (1, 4))


class TestQuorum:
    def test_below_it_the_round_fails_and_names_the_causes(self, tiny: MakeConfig) -> None:
        coordinator = coordinate(tiny("federation.quorum=0.8"))
        plan = coordinator.plan(1)
        reports = [answer(order) for order in plan.orders[:3]]
        with pytest.raises(RunFailed) as failed:
            coordinator.admit(plan, [*reports, DeviceReport("reader-1", "update rejected: not finite")])
        assert str(failed.value) == (
            "round 1: 3 of 5 updates arrived, below federation.quorum 0.8; "
            "reader-1: update rejected: not finite; coach-0: no answer"
        )

    @pytest.mark.parametrize(
        ("quorum", "arrived", "problem"),
        [
            ("{fog: 0.6}", 3, "1 of 2 updates arrived at fog-1, below federation.quorum.fog 0.6"),
            ("{fog: 0.5}", 3, None),
            ("{fog: 0}", 3, None),
            ("{fog: 0, cloud: 0.5}", 1, None),
            ("{fog: 0}", 1, "1 of 2 updates arrived at cloud, below federation.quorum.cloud 1"),
            ("{cloud: 0.5}", 4, "2 of 3 updates arrived at fog-0, below federation.quorum.fog 1"),
        ],
    )
    def test_it_may_be_of_each_node_of_a_tier(
        self, tiny: MakeConfig, quorum: str, arrived: int, problem: str | None
    ) -> None:
        """In this order: watch-0 and reader-0 of fog-0, reader-1 and watch-1 of fog-1, coach-0 of fog-0."""
        coordinator = coordinate(tiny(f"federation.quorum={quorum}"))
        plan = coordinator.plan(1)
        reports = [answer(order_of(plan, d)) for d in ("watch-0", "reader-0", "reader-1", "watch-1")[:arrived]]
        if problem is None:
            coordinator.admit(plan, reports)
            return
        with pytest.raises(RunFailed, match=f"round 1: {problem}; .*no answer"):
            coordinator.admit(plan, reports)

    def test_at_it_the_round_goes_on_and_the_lost_are_counted(self, tiny: MakeConfig) -> None:
        coordinator = coordinate(tiny("federation.quorum=0.6"))
        plan = coordinator.plan(1)
        reports = [answer(order) for order in plan.orders[:3]]
        coordinator.admit(plan, reports)
        finish(coordinator, plan, reports)
        assert coordinator.state.updates_lost == 2
        assert "coach-0" not in coordinator.state.held

    def test_it_is_not_missed_by_a_rounding(self, tiny: MakeConfig) -> None:
        coordinator = coordinate(tiny("federation.quorum=0.07"))  # 0.07 * 100 is 7.000000000000001
        orders = tuple(DeviceOrder(f"d-{i}", (), (), (), ()) for i in range(100))
        plan = RoundPlan(1, orders, personal=False, evaluate=False)
        coordinator.admit(plan, [answer(order) for order in orders[:7]])
        with pytest.raises(RunFailed):
            coordinator.admit(plan, [answer(order) for order in orders[:6]])

    def test_devices_with_one_cause_are_named_together(self, tiny: MakeConfig) -> None:
        coordinator = coordinate(tiny())
        plan = coordinator.plan(1)
        assert coordinator.lost(plan, [answer(order) for order in plan.orders]) is None
        reports = [DeviceReport(order.device, "its host died") for order in plan.orders]
        assert coordinator.lost(plan, reports) == "watch-0, watch-1, reader-0 and 2 more: its host died"


class TestVersions:
    def test_new_versions_go_down_to_the_nodes_whose_devices_own_them(self, tiny: MakeConfig) -> None:
        config = tiny(
            'topology={"kind": "listed", "tier_names": ["region", "fog"], "tree": {"north": {"a": ["watch-0"], '
            '"b": ["reader-0", "reader-1"]}, "south": {"c": ["watch-1", "coach-0"]}}}'
        )
        coordinator = coordinate(config)
        adopted = coordinator.descend(3, {"cloud": ["head/topic"], "north": ["adapter/fusion"]})
        assert adopted == {
            "north": ("head/topic",),
            "south": ("head/topic",),
            "a": ("adapter/fusion",),
            "b": ("adapter/fusion", "head/topic"),
            "c": ("head/topic",),
        }
        stamps = coordinator.state.stamps
        assert (stamps["b"]["head/topic"], stamps["b"]["adapter/fusion"]) == (3, 3)
        assert (stamps["c"]["adapter/fusion"], stamps["cloud"]["adapter/fusion"]) == (0, 0)


def test_a_chosen_cadence_is_a_multiple_of_the_modules_own(tiny: MakeConfig) -> None:
    own = 'federation.modules=[{"match": "head/topic", "cadence": {"fog": 3}}]'
    coordinator = coordinate(tiny(own, "federation.adaptive={}", "rounds=9"))
    coordinator.state.cadences = {"head/topic": 8, "head/exercise": 2}
    coordinator.state.moved = {"head/topic": 0.1, "head/exercise": 0.1}
    held = [coordinator.plan(number).held_back.get("fog", ()) for number in range(1, 10)]
    assert [number for number, some in enumerate(held, 1) if "head/topic" not in some] == [6, 9]  # 8 // 3 * 3; the last
    assert [number for number, some in enumerate(held, 1) if "head/exercise" not in some] == [2, 4, 6, 8, 9]
    why = {decision.about: decision.why for decision in coordinator.plan(1).decisions}
    assert why["head/topic"].startswith("sent on every 6 rounds: it moves by 0.1 a round and takes ")
