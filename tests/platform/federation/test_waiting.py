"""Whom nodes wait for: `fog-0` has a, b and c, `fog-1` has d and e. Sums take a second to the cloud."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fogtune.platform.config import Config
from fogtune.platform.federation.messages import DeviceOrder, RoundPlan
from fogtune.platform.federation.waiting import Arrival, Late, late_children, latest_s, waits_for_all, without_late
from fogtune.platform.topology_build import build_tree

MakeConfig = Callable[..., Config]

TREE = (
    "devices=["
    + ", ".join(f"{{name: {name}, count: 1, modalities: [text], tasks: [topic]}}" for name in "abcde")
    + "]",
    "topology={kind: listed, tree: {fog-0: [a-0, b-0, c-0], fog-1: [d-0, e-0]}}",
    "network={}",
    "tasks={topic: {source: news, inputs: [text], label: topic}}",
    "sources={news: {kind: embedded, asset: bbc-news, samples_per_device: 10}}",
    "model.encoders={}",
)
HEAD = frozenset({"head/topic"})
COME = {"a-0": 1.0, "b-0": 2.0, "c-0": 9.0, "d-0": 3.0, "e-0": 4.0}


def late(config: Config, come: dict[str, float] = COME, ready_s: dict[str, float] | None = None) -> dict[str, Late]:
    arrivals = {device: Arrival(at_s, HEAD) for device, at_s in come.items()}
    return late_children(config, build_tree(config), arrivals, lambda _, modules: (modules, 1.0), ready_s or {})


def until(found: dict[str, Late]) -> dict[str, float]:
    return {child: one.until_s for child, one in found.items()}


@pytest.mark.parametrize(
    ("synchrony", "expected"),
    [
        ("{}", {}),
        ("{fog: {kind: synchronous}}", {}),
        ("{fog: {kind: semi-synchronous, share: 1}}", {}),
        ("{fog: {kind: semi-synchronous, share: 0.7}}", {}),  # 2.1 of 3 is 3
        ("{fog: {kind: semi-synchronous, share: 0.6}}", {"c-0": 2.0}),
        ("{fog: {kind: asynchronous, share: 0.5}}", {"c-0": 2.0, "e-0": 3.0}),
        ("{fog: {kind: asynchronous, share: 0.01}}", {"b-0": 1.0, "c-0": 1.0, "e-0": 3.0}),
        ("{fog: {kind: semi-synchronous, share: 1, deadline_s: 3.5}}", {"c-0": 3.5, "e-0": 3.5}),
        ("{fog: {kind: semi-synchronous, share: 1, deadline_s: 0.1}}", {"b-0": 1.0, "c-0": 1.0, "e-0": 3.0}),
        # fog-1's sum comes at 5 s, fog-0's at 10 s; who of fog-0 has come till then has not been in vain.
        ("{cloud: {kind: semi-synchronous, share: 0.5}}", {"fog-0": 5.0, "c-0": 5.0}),
        ("{cloud: {kind: asynchronous, share: 0.5}}", {"fog-0": 5.0}),
        # Without c-0 fog-0's sum comes at 3 s, before that of fog-1.
        (
            "{fog: {kind: asynchronous, share: 0.6}, cloud: {kind: semi-synchronous, share: 0.5}}",
            {"c-0": 2.0, "fog-1": 3.0, "e-0": 3.0},
        ),
    ],
)
def test_who_is_late(tiny: MakeConfig, synchrony: str, expected: dict[str, float]) -> None:
    assert until(late(tiny(*TREE, f"federation.synchrony={synchrony}"))) == expected


def test_those_who_come_at_once_are_treated_alike(tiny: MakeConfig) -> None:
    config = tiny(*TREE, "federation.synchrony={fog: {kind: asynchronous, share: 0.3}}")
    assert until(late(config, dict.fromkeys(COME, 2.0))) == {}


def test_a_share_that_is_a_whole_number_is_that_many(tiny: MakeConfig) -> None:
    group = "devices=[{name: a, count: 25, modalities: [text], tasks: [topic]}]"
    devices = [f"a-{i}" for i in range(25)]
    config = tiny(
        *TREE,
        group,
        f"topology={{kind: listed, tree: {{fog-0: [{', '.join(devices)}]}}}}",
        "federation.synchrony={fog: {kind: semi-synchronous, share: 0.28}}",
    )
    found = late(config, {device: float(i) for i, device in enumerate(devices)})
    assert until(found) == dict.fromkeys(devices[7:], 6.0)


def test_a_deadline_counts_from_where_the_node_begins(tiny: MakeConfig) -> None:
    config = tiny(*TREE, "federation.synchrony={fog: {kind: semi-synchronous, share: 1, deadline_s: 2.5}}")
    assert until(late(config, ready_s={"fog-0": 6.0, "fog-1": 1.0})) == {"c-0": 8.5, "e-0": 3.5}


def test_what_has_come_before_a_node_begins_is_there(tiny: MakeConfig) -> None:
    config = tiny(*TREE, "federation.synchrony={fog: {kind: asynchronous, share: 0.1}}")
    assert until(late(config, ready_s={"fog-0": 2.0, "fog-1": 0.5})) == {"c-0": 2.0, "e-0": 3.0}


def test_a_node_that_sends_nothing_is_not_waited_for(tiny: MakeConfig) -> None:
    config = tiny(*TREE, "federation.synchrony={cloud: {kind: asynchronous, share: 0.5}}")
    arrivals = {device: Arrival(at_s, HEAD) for device, at_s in COME.items()}
    assert late_children(config, build_tree(config), arrivals, lambda _, __: (frozenset(), 0.0), {}) == {}


def test_reasons_have_the_figures(tiny: MakeConfig) -> None:
    found = late(tiny(*TREE, "federation.synchrony={fog: {kind: asynchronous, share: 0.6}}"))
    assert found["c-0"].why == "it would come at 9 s, fog-0 goes on at 2 s with 2 of 3"


def planned(config: Config, begun: str | None = None) -> RoundPlan:
    """Everybody takes part; `begun` is under way since round 1."""
    orders = tuple(
        DeviceOrder(device, (), (), (), ("head/topic",), begun=1 if device == begun else None)
        for device in build_tree(config).devices
    )
    plan = RoundPlan(2, orders, personal=False, evaluate=False)
    return without_late(config, build_tree(config), plan, late(config))


def names(orders: tuple[DeviceOrder, ...]) -> list[str]:
    return [order.device for order in orders]


def test_who_is_cut_off_works_in_vain(tiny: MakeConfig) -> None:
    plan = planned(tiny(*TREE, "federation.synchrony={fog: {kind: semi-synchronous, share: 0.6}}"))
    assert names(plan.orders) == ["a-0", "b-0", "d-0", "e-0"]
    assert [(order.device, order.until_s) for order in plan.late] == [("c-0", 2.0)]
    assert (plan.beginning, plan.cut_off, plan.away) == ((), frozenset(), frozenset())
    assert [(d.about, d.what) for d in plan.decisions] == [("c-0", "is too late")]


def test_who_is_late_begins_or_stays_under_way(tiny: MakeConfig) -> None:
    config = tiny(*TREE, "federation.synchrony={fog: {kind: asynchronous, share: 0.5}}")
    plan = planned(config, begun="e-0")
    assert names(plan.orders) == ["a-0", "b-0", "d-0"]
    assert names(plan.beginning) == ["c-0"]
    assert plan.late == ()
    assert {d.what for d in plan.decisions} == {"is late"}
    ready_s = {"a-0": 1.0, "fog-0": 2.0, "c-0": 7.0}
    assert latest_s(plan, ready_s, 0.5) == 2.0


def test_below_a_node_under_way_nothing_happens(tiny: MakeConfig) -> None:
    both = "{fog: {kind: semi-synchronous, share: 1, deadline_s: 8}, cloud: {kind: asynchronous, share: 0.5}}"
    plan = planned(tiny(*TREE, f"federation.synchrony={both}"))
    assert plan.away == {"fog-0"}
    assert names(plan.orders) == ["d-0", "e-0"]
    assert (plan.late, plan.beginning) == ((), ())
    assert [d.about for d in plan.decisions] == ["fog-0"]


def test_a_node_that_is_cut_off_holds_back(tiny: MakeConfig) -> None:
    plan = planned(tiny(*TREE, "federation.synchrony={cloud: {kind: semi-synchronous, share: 0.5}}"))
    assert plan.cut_off == {"fog-0"}
    assert plan.stays("head/topic", "fog-0", "fog")
    assert not plan.stays("head/topic", "fog-1", "fog")
    assert names(plan.orders) == ["a-0", "b-0", "d-0", "e-0"]


def test_who_waits_for_all(tiny: MakeConfig) -> None:
    assert waits_for_all(tiny(*TREE, "federation.synchrony={fog: {kind: synchronous}}"))
    assert not waits_for_all(tiny(*TREE, "federation.synchrony={cloud: {kind: asynchronous}}"))
