"""Whole federations in one process, on real data and weights: trees, scopes, ownership."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import pytest
import torch

from fogtune.platform.aggregation import Tensors
from fogtune.platform.config import Config
from fogtune.platform.errors import RunFailed
from fogtune.platform.federation.local_runner import LocalRunner, RoundResult
from fogtune.platform.federation.snapshot import Snapshot

MakeConfig = Callable[..., Config]
Run = Callable[..., tuple[list[RoundResult], Snapshot]]

STAR = "topology.tiers=[]"
DEEP = 'topology.tiers=[{"name": "region", "count": 2}, {"name": "fog", "count": 3}]'
FOG_HEADS = 'federation.modules=[{"match": "head/*", "scope": "fog"}]'
PERSONAL_HEADS = 'federation.modules=[{"match": "head/*", "scope": "device"}]'


@pytest.fixture(scope="module")
def run(tiny: MakeConfig) -> Run:
    """Runs some rounds: what they leave, and the state after them. What was run before is not run again."""

    @cache
    def run(*overrides: str, rounds: int = 2) -> tuple[list[RoundResult], Snapshot]:
        runner = LocalRunner(tiny(*overrides))
        try:
            return [runner.round(number) for number in range(1, rounds + 1)], runner.snapshot()
        finally:
            runner.close()

    return run


def same(ours: Mapping[str, Tensors], theirs: Mapping[str, Tensors]) -> bool:
    """The same modules, bit for bit."""
    return ours.keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[module][name])
        for module, tensors in ours.items()
        for name, tensor in tensors.items()
    )


def measured(results: list[RoundResult]) -> list[object]:
    """What a round measures that does not depend on the network."""
    return [(result.record.loss, result.record.tasks, result.record.participants) for result in results]


@pytest.mark.parametrize("change", [(), ("federation.rule.kind=fedadam",)])
def test_a_hierarchy_of_cadence_1_equals_the_star_bit_for_bit(run: Run, change: tuple[str, ...]) -> None:
    star_results, star = run(STAR, *change)
    assert measured(star_results[:1]) != measured(star_results[1:])  # it learns
    for tree in [(DEEP,)] if change else [(DEEP,), ()]:
        results, snapshot = run(*tree, *change)
        assert same(snapshot.nodes["cloud"].versions, star.nodes["cloud"].versions)
        assert measured(results) == measured(star_results)
        for state in snapshot.nodes.values():
            assert all(same({m: t}, {m: star.nodes["cloud"].versions[m]}) for m, t in state.versions.items())


def test_a_rerun_gives_the_same_bits_and_another_seed_others(run: Run) -> None:
    results, snapshot = run()
    again, repeated = run("name=again")
    assert same(snapshot.nodes["cloud"].versions, repeated.nodes["cloud"].versions)
    assert measured(results) == measured(again)
    assert [result.rows for result in results] == [result.rows for result in again]
    _, other = run("seed=1", rounds=1)
    assert not same(snapshot.nodes["cloud"].versions, other.nodes["cloud"].versions)


def test_the_cache_of_prefixes_changes_no_bit(run: Run) -> None:
    _, cached = run()
    _, uncached = run("execution.prefix_cache_bytes=0")
    assert same(cached.nodes["cloud"].versions, uncached.nodes["cloud"].versions)


def test_of_scope_fog_every_region_has_its_own(run: Run) -> None:
    results, snapshot = run(FOG_HEADS)
    ours, theirs = (snapshot.nodes[node].versions for node in ("fog-0", "fog-1"))
    for module in ("head/exercise", "head/topic"):
        assert not same({module: ours[module]}, {module: theirs[module]})
        assert module not in snapshot.nodes["cloud"].versions
    assert same({"adapter/fusion": ours["adapter/fusion"]}, {"adapter/fusion": theirs["adapter/fusion"]})
    assert not any(row.module == "head/topic" for r in results for row in r.rows if row.kind == "backhaul")


def test_a_personal_module_never_leaves_its_device(run: Run) -> None:
    results, snapshot = run(PERSONAL_HEADS)
    assert not any(row.module.startswith("head/") for result in results for row in result.rows)
    assert not any(module.startswith("head/") for state in snapshot.nodes.values() for module in state.versions)
    readers = [snapshot.devices[device].kept for device in ("reader-0", "reader-1")]
    assert all(set(kept) == {"head/topic"} for kept in readers)
    assert not same(*readers)
    assert set(snapshot.devices["coach-0"].kept) == {"head/exercise", "head/topic"}


def test_what_nobody_owns_in_a_round_keeps_its_bits(tiny: MakeConfig) -> None:
    """One device of five a round: the modules of modalities and tasks that it has not got are not its business."""
    own = {"watch": ("encoder/imu", "head/exercise", "prompt/exercise"), "reader": ("head/topic", "prompt/topic")}
    runner = LocalRunner(tiny("federation.participation=0.2", "evaluation.personal=false", "evaluation.every=9"))
    seen = set()
    for number in range(1, 7):
        before = runner.snapshot().nodes["cloud"].versions
        result = runner.round(number)
        after = runner.snapshot().nodes["cloud"].versions
        (device,) = {row.source for row in result.rows if row.kind == "uplink"}
        group = device.partition("-")[0]
        for owner, modules in own.items():
            for module in modules:
                assert same({module: after[module]}, {module: before[module]}) == (group not in (owner, "coach"))
        assert not same({"adapter/fusion": after["adapter/fusion"]}, {"adapter/fusion": before["adapter/fusion"]})
        seen.add(group)
    runner.close()
    assert {"watch", "reader"} <= seen


def test_between_due_rounds_regions_differ_and_then_agree(tiny: MakeConfig) -> None:
    runner = LocalRunner(tiny("federation.cadence.fog=2"))
    initial = runner.setup.initial
    results = [runner.round(1)]
    apart = runner.snapshot()
    results.append(runner.round(2))
    together = runner.snapshot()
    runner.close()
    assert same(apart.nodes["cloud"].versions, initial)
    assert not same(apart.nodes["fog-0"].versions, apart.nodes["fog-1"].versions)
    assert same(together.nodes["fog-1"].versions, together.nodes["cloud"].versions)
    assert not any(row.kind == "backhaul" and row.target == "cloud" for row in results[0].rows)
    assert any(row.kind == "backhaul" and row.target == "cloud" for row in results[1].rows)


class TestLostUpdates:
    DIVERGING = ("local.optimizer=sgd", "local.learning_rate=1e38", "local.clip_norm=null")

    def test_below_the_quorum_the_round_fails_with_the_cause(self, tiny: MakeConfig) -> None:
        runner = LocalRunner(tiny(*self.DIVERGING))
        with pytest.raises(RunFailed) as failed:
            runner.round(1)
        runner.close()
        assert str(failed.value).startswith("round 1: 0 of 5 updates arrived, below federation.quorum 1; watch-0")
        assert "not finite" in str(failed.value)
        assert "\n" not in str(failed.value)

    def test_otherwise_they_are_counted(self, tiny: MakeConfig) -> None:
        runner = LocalRunner(tiny(*self.DIVERGING, "federation.quorum=0"))
        result = runner.round(1)
        assert (result.record.participants, result.record.updates_lost) == (5, 5)
        assert result.lost is not None
        assert runner.snapshot().coordinator.updates_lost == 5
        assert same(runner.snapshot().nodes["cloud"].versions, runner.setup.initial)
        assert not any(row.kind == "uplink" for row in result.rows)
        runner.close()


def test_a_snapshot_does_not_change_with_the_rounds_after_it(tiny: MakeConfig) -> None:
    config = tiny("federation.participation=0.6", PERSONAL_HEADS)
    runner = LocalRunner(config)
    runner.round(1)
    early = runner.snapshot()
    straight = [runner.round(number) for number in (2, 3)]
    late = runner.snapshot()
    runner.restore(early)
    again = [runner.round(number) for number in (2, 3)]
    assert measured(again) == measured(straight)
    assert [result.rows for result in again] == [result.rows for result in straight]
    assert same(runner.snapshot().nodes["cloud"].versions, late.nodes["cloud"].versions)
    assert runner.snapshot().coordinator == late.coordinator
    runner.close()


def test_threads_are_given_back(tiny: MakeConfig) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        runner = LocalRunner(tiny())
        assert torch.get_num_threads() == 1
        runner.close()
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
