"""What a node does in a round, by hand on small integers; at cadence 1 the shape of the tree leaves no trace."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.aggregation import HeldUpdates, ModuleSum, Update, control_name
from fogtune.platform.aggregation.tier import Step, TierLogic
from fogtune.platform.config import (
    Adapter,
    Config,
    CountedTopology,
    DeviceGroup,
    EmbeddedSource,
    FedAdam,
    FedAvg,
    FedAvgM,
    Federation,
    FedYogi,
    ListedTopology,
    Median,
    Model,
    ModulePolicy,
    Rule,
    Scaffold,
    SeriesEncoder,
    Task,
    Tier,
    Topology,
    TrimmedMean,
)
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.messages import Setup
from fogtune.platform.ownership import own
from fogtune.platform.topology_build import build_tree

HEAD, PROMPT, ADAPTER = "head/topic", "prompt/topic", "adapter/fusion"
STAR = CountedTopology(tiers=())
FOGS = CountedTopology(tiers=(Tier(name="fog", count=2),))
REGIONS = CountedTopology(tiers=(Tier(name="region", count=2), Tier(name="fog", count=3)))

Sent = Mapping[str, tuple[float, int]]
"""Device -> (value of every entry of a module, samples)."""


class Tiers:
    """The aggregating nodes of a tree, driven as the runners do; devices are what the test says they sent."""

    def __init__(self, topology: Topology = FOGS, devices: int = 4, **federation: Any) -> None:
        """Devices are d-0, d-1, ...; in `FOGS` the even ones are below fog-0, the odd ones below fog-1."""
        self.config = Config(
            topology=topology,
            devices=(DeviceGroup(name="d", count=devices, modalities=("text",), tasks=("topic",)),),
            sources={"news": EmbeddedSource(asset="bbc-news")},
            tasks={"topic": Task(source="news", inputs=("text",), label="topic")},
            model=Model(adapter=Adapter()),
            federation=Federation(**federation),
        )
        self.rule = self.config.federation.rule
        names = {HEAD: "weight", PROMPT: "tokens", ADAPTER: "lora_A.weight"}
        initial = {module: {name: torch.zeros(2)} for module, name in names.items()}
        if isinstance(self.rule, Scaffold):
            initial = {m: t | {control_name(n): torch.zeros(2) for n in t} for m, t in initial.items()}
        self.names = names
        self.coordinator = Coordinator(self.config, Setup(initial, {"topic": 1}, {"topic": ("a", "b")}, None))
        self.tree = self.coordinator.tree
        self.logic = {
            node: TierLogic(self.config, self.tree, self.coordinator.ownership, node) for node in self.tree.aggregators
        }
        self.states = {node: logic.initial(initial) for node, logic in self.logic.items()}
        self.steps: dict[str, Step] = {}

    def round(self, number: int, sent: Sent, module: str = HEAD) -> None:
        arriving: dict[str, Update] = {}
        for device, (value, weight) in sent.items():
            parent = self.tree[device].parent or ""
            arriving[parent] = arriving.get(parent, Update.empty()) + self.update(device, module, value, weight)
        for node in self.tree.aggregators:
            self.steps[node] = self.logic[node].step(self.states[node], number, arriving.get(node, Update.empty()))
            self.states[node] = self.steps[node].state
            if parent := self.tree[node].parent or "":
                arriving[parent] = arriving.get(parent, Update.empty()) + self.steps[node].upward
        adopted = self.coordinator.descend(number, {node: step.changed for node, step in self.steps.items()})
        for node, modules in adopted.items():
            above = self.states[self.tree[node].parent or ""].versions
            self.states[node] = self.logic[node].adopt(self.states[node], number, {m: above[m] for m in modules})

    def update(self, device: str, module: str, value: float, weight: int) -> Update:
        tensors = {self.names[module]: torch.tensor([value, -value])}
        if isinstance(self.rule, Scaffold):
            tensors[control_name(self.names[module])] = torch.tensor([2 * value, 0.0])
        robust = isinstance(self.rule, Median | TrimmedMean)
        one = HeldUpdates.of(device, tensors, weight) if robust else ModuleSum.of(tensors, weight)
        return Update({module: one}, {"samples/topic": weight})

    def value(self, node: str, module: str = HEAD) -> float:
        """The first entry of a module's version at a node."""
        return float(self.states[node].versions[module][self.names[module]][0])

    def went_up(self, node: str) -> dict[str, tuple[float, int, int]]:
        """Module -> (mean, weight, contributors) of what the node sent to its parent in the last round."""
        result = {}
        for module, total in self.steps[node].upward.modules.items():
            assert isinstance(total, ModuleSum)
            mean = float(total.mean()[self.names[module]][0])
            result[module] = (mean, total.weight, total.contributors)
        return result


def test_a_node_holds_the_modules_of_its_subtree_that_are_averaged_at_it_or_above() -> None:
    tiers = Tiers(modules=(ModulePolicy(match=HEAD, scope="device"), ModulePolicy(match=PROMPT, scope="fog")))
    assert set(tiers.states["cloud"].versions) == {ADAPTER}
    assert set(tiers.states["fog-0"].versions) == {ADAPTER, PROMPT}


def test_at_cadence_1_the_sum_itself_goes_up_and_only_the_cloud_makes_a_version() -> None:
    tiers = Tiers()
    tiers.round(1, {"d-0": (1, 1), "d-1": (5, 2), "d-2": (4, 2)})
    assert tiers.went_up("fog-0") == {HEAD: (3, 3, 2)}  # (1*1 + 4*2) / 3
    assert tiers.went_up("fog-1") == {HEAD: (5, 2, 1)}
    assert (tiers.steps["fog-0"].changed, tiers.steps["cloud"].changed) == ((), (HEAD,))
    assert tiers.value("cloud") == pytest.approx(19 / 5)  # (1*1 + 5*2 + 4*2) / 5
    assert tiers.value("fog-0") == tiers.value("fog-1") == tiers.value("cloud")
    assert all(not state.pending for state in tiers.states.values())
    assert tiers.value("cloud", PROMPT) == 0  # nobody sent it


def test_at_cadence_2_fog_nodes_average_for_themselves_in_between() -> None:
    tiers = Tiers(cadence={"fog": 2})
    tiers.round(1, {"d-0": (1, 1), "d-2": (4, 2), "d-1": (7, 1)})
    assert tiers.went_up("fog-0") == tiers.went_up("fog-1") == {}
    assert (tiers.value("fog-0"), tiers.value("fog-1"), tiers.value("cloud")) == (3, 7, 0)
    assert set(tiers.states["fog-0"].pending) == {HEAD}
    tiers.round(2, {"d-0": (5, 3), "d-1": (2, 1)})
    assert tiers.went_up("fog-0") == {HEAD: (5, 3, 1)}  # what was learned in this round, from the average of the last
    assert tiers.value("cloud") == tiers.value("fog-0") == tiers.value("fog-1") == 4.25  # (5*3 + 2*1) / 4
    assert not tiers.states["fog-0"].pending


def test_a_subtree_that_is_silent_when_due_sends_its_latest_sum() -> None:
    tiers = Tiers(cadence={"fog": 3})
    tiers.round(1, {"d-0": (8, 1), "d-1": (1, 1)})
    tiers.round(2, {"d-0": (4, 3)})
    tiers.round(3, {"d-1": (2, 1)})
    assert tiers.went_up("fog-0") == {HEAD: (4, 3, 1)}  # of round 2: it began with what round 1 had made
    assert tiers.value("cloud") == 3.5  # (4*3 + 2*1) / 4
    assert not tiers.states["fog-0"].pending
    tiers.round(6, {"d-1": (6, 1)})
    assert tiers.went_up("fog-0") == {}  # nothing new since
    assert tiers.value("cloud") == 6


def test_each_tier_of_a_deep_tree_has_its_own_cadence() -> None:
    # fog-0 and fog-2 are below region-0, fog-1 below region-1; d-0, d-3 below fog-0, d-1 below fog-1, d-2 below fog-2.
    tiers = Tiers(REGIONS, cadence={"fog": 2, "region": 4})
    tiers.round(1, {"d-0": (1, 1), "d-1": (2, 1), "d-2": (3, 1), "d-3": (5, 1)})
    assert [tiers.value(node) for node in ("fog-0", "fog-1", "fog-2", "region-0", "cloud")] == [3, 2, 3, 0, 0]
    tiers.round(2, {"d-0": (1, 1), "d-1": (2, 1), "d-2": (4, 1)})
    assert [tiers.value(node) for node in ("fog-0", "fog-1", "fog-2", "region-0", "cloud")] == [2.5, 2, 2.5, 2.5, 0]
    tiers.round(3, {"d-3": (9, 1)})
    tiers.round(4, {"d-1": (6, 1)})
    assert tiers.went_up("region-0") == {HEAD: (9, 1, 1)}  # fog-0's pending sum, and nothing of fog-2
    assert [tiers.value(node) for node in ("fog-0", "fog-1", "fog-2", "region-0", "cloud")] == [7.5] * 5


def test_of_scope_fog_nothing_goes_above_the_fog_nodes() -> None:
    tiers = Tiers(modules=(ModulePolicy(match=HEAD, scope="fog"),))
    tiers.round(1, {"d-0": (1, 1), "d-2": (3, 1), "d-1": (7, 1)})
    assert tiers.went_up("fog-0") == {}
    assert (tiers.value("fog-0"), tiers.value("fog-1")) == (2, 7)
    assert HEAD not in tiers.states["cloud"].versions
    assert not tiers.states["fog-0"].pending  # it never becomes due


def test_a_module_that_should_not_come_is_not_taken_in() -> None:
    tiers = Tiers(modules=(ModulePolicy(match=HEAD, scope="device"),))
    tiers.round(1, {"d-0": (1, 1)})
    assert tiers.went_up("fog-0") == {}
    assert HEAD not in tiers.states["fog-0"].versions
    state = tiers.logic["fog-0"].adopt(tiers.states["fog-0"], 1, {HEAD: {"weight": torch.ones(2)}})
    assert state == tiers.states["fog-0"]


def test_the_server_rule_and_its_state_are_at_the_scope_alone() -> None:
    rule = FedAvgM(kind="fedavgm", learning_rate=0.5, momentum=0.5)
    tiers = Tiers(rule=rule, cadence={"fog": 2}, modules=(ModulePolicy(match=PROMPT, scope="fog"),))
    assert set(tiers.states["cloud"].rules) == {HEAD, ADAPTER}
    assert set(tiers.states["fog-0"].rules) == {PROMPT}
    tiers.round(1, {"d-0": (8, 1)})
    assert tiers.value("fog-0") == 8  # the mean, no momentum below the scope
    tiers.round(2, {"d-0": (8, 1)})
    assert tiers.value("cloud") == 4  # v = 8, w = 0 + 0.5 * 8
    tiers.round(4, {"d-0": (8, 1)})
    assert tiers.value("cloud") == 8  # v = 0.5 * 8 + (8 - 4) = 8, w = 4 + 0.5 * 8
    tiers.round(5, {"d-0": (8, 1)}, PROMPT)
    assert tiers.value("fog-0", PROMPT) == 4
    assert float(tiers.states["fog-0"].rules[PROMPT]["momentum/tokens"][0]) == 8
    assert float(tiers.states["fog-1"].rules[PROMPT]["momentum/tokens"][0]) == 0


def test_a_median_is_taken_where_updates_first_meet_and_goes_on_as_a_sum() -> None:
    sent = {"d-0": (0, 1), "d-2": (2, 1), "d-4": (90, 7), "d-1": (6, 3), "d-3": (8, 3), "d-5": (7, 3)}
    fogs = Tiers(devices=6, rule=Median(kind="median"))
    fogs.round(1, sent)
    assert fogs.went_up("fog-0") == {HEAD: (2, 9, 3)}
    assert fogs.went_up("fog-1") == {HEAD: (7, 9, 3)}
    assert fogs.value("cloud") == 4.5  # the mean of the fog nodes' medians
    star = Tiers(STAR, devices=6, rule=Median(kind="median"))
    star.round(1, sent)
    assert star.value("cloud") == 6.5
    trimmed = Tiers(devices=6, rule=TrimmedMean(kind="trimmed-mean", trim=0.34), cadence={"fog": 2})
    trimmed.round(1, sent)
    assert (trimmed.value("fog-0"), trimmed.value("fog-1")) == (2, 7)
    trimmed.round(2, {})
    assert trimmed.value("cloud") == 4.5  # pending sums of the statistic


def test_scaffolds_variate_takes_up_the_share_of_the_owners_that_took_part() -> None:
    tiers = Tiers(rule=Scaffold(kind="scaffold"))
    tiers.round(1, {"d-0": (3, 1), "d-1": (5, 1)})
    version = tiers.states["cloud"].versions[HEAD]
    assert version["weight"].tolist() == [4, -4]
    assert version["control/weight"].tolist() == [4, 0]  # 2 of 4 owners, mean change 8
    local = Tiers(rule=Scaffold(kind="scaffold"), modules=(ModulePolicy(match=HEAD, scope="fog"),))
    local.round(1, {"d-0": (3, 1)})
    assert local.states["fog-0"].versions[HEAD]["control/weight"].tolist() == [3, 0]  # 1 of 2 owners below fog-0


def test_metrics_go_up_every_round() -> None:
    tiers = Tiers(cadence={"fog": 2})
    tiers.round(1, {"d-0": (1, 5), "d-1": (1, 6), "d-2": (1, 7)})
    assert tiers.steps["cloud"].upward.metrics == {"samples/topic": 18}


def test_a_step_changes_nothing_that_it_was_given() -> None:
    tiers = Tiers(rule=FedAdam(kind="fedadam"), cadence={"fog": 2})
    tiers.round(1, {"d-0": (1, 1), "d-1": (3, 2)})
    for node, logic in tiers.logic.items():
        before, update = tiers.states[node], tiers.update("d-0", HEAD, 9, 1)
        kept, sent = deepcopy(before), deepcopy(update)
        for number in (2, 3):
            logic.step(before, number, update)
        assert update == sent
        assert before.pending == kept.pending
        for module, tensors in kept.versions.items():
            assert torch.equal(before.versions[module][tiers.names[module]], tensors[tiers.names[module]])
        for module, moments in kept.rules.items():
            assert all(torch.equal(before.rules[module][name], moment) for name, moment in moments.items())


@st.composite
def trees(draw: st.DrawFn) -> tuple[Topology, int]:
    """A tree of any shape with two to eight devices: one to four tiers between them and the cloud."""
    depth, count = draw(st.integers(1, 4)), draw(st.integers(2, 8))
    nodes: dict[tuple[int, ...], Any] = {}
    tree: dict[str, Any] = {}
    for device in range(count):
        path = tuple(draw(st.integers(0, 2)) for _ in range(depth))
        level: Any = tree
        for tier in range(1, depth + 1):
            key = "n" + "-".join(map(str, path[:tier]))
            level = nodes.setdefault(path[:tier], level.setdefault(key, [] if tier == depth else {}))
        level.append(f"d-{device}")
    return ListedTopology(kind="listed", tier_names=tuple("abcd"[:depth]), tree=tree), count


RULES: list[Rule] = [
    FedAvg(),
    FedAvgM(kind="fedavgm"),
    FedAdam(kind="fedadam"),
    FedYogi(kind="fedyogi"),
    Scaffold(kind="scaffold", learning_rate=0.7),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_statistics_are_not_stepped_towards_but_taken(rule: Rule) -> None:
    config = Config(
        topology=FOGS,
        devices=(DeviceGroup(name="d", count=2, modalities=("imu",), tasks=("exercise",)),),
        sources={"watch": EmbeddedSource(asset="seglearn")},
        tasks={"exercise": Task(source="watch", inputs=("imu",), label="exercise")},
        model=Model(encoders={"imu": SeriesEncoder(kind="series", channels=2)}),
        federation=Federation(rule=rule),
    )
    tree = build_tree(config)
    ownership = own(config, tree)
    cloud = TierLogic(config, tree, ownership, "cloud")
    state = cloud.initial({module: {"mean": torch.zeros(2)} for module in ownership.modules})
    for number, value in ((1, 4.0), (2, 1.0)):
        one, other = (ModuleSum.of({"mean": torch.tensor([v, -v])}, n) for v, n in ((value, 1), (2 * value, 3)))
        state = cloud.step(state, number, Update({"statistics/imu": one + other}, {})).state
        assert state.versions["statistics/imu"]["mean"].tolist() == [1.75 * value, -1.75 * value]


@given(shape=trees(), rule=st.sampled_from(RULES), data=st.data())
def test_at_cadence_1_every_tree_gives_the_versions_of_the_star(
    shape: tuple[Topology, int], rule: Rule, data: st.DataObject
) -> None:
    topology, count = shape
    tree, star = Tiers(topology, count, rule=rule), Tiers(STAR, count, rule=rule)
    values = st.floats(-100, 100, width=32)
    for number in (1, 2, 3):
        devices = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
        sent = {f"d-{i}": (data.draw(values), data.draw(st.integers(1, 1000))) for i in sorted(devices)}
        tree.round(number, sent)
        star.round(number, sent)
        for name, tensor in star.states["cloud"].versions[HEAD].items():
            for node in tree.tree.aggregators:
                assert torch.equal(tree.states[node].versions[HEAD][name], tensor)
