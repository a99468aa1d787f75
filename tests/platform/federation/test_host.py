"""A device host on real data and weights: failures are values, and nobody learns from who used the model before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from fogtune.platform.aggregation import HeldUpdates, ModuleSum, Tensors, Update
from fogtune.platform.aggregation.tier import TierLogic
from fogtune.platform.config import Config
from fogtune.platform.federation.cohorts import cohorts
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.host import DeviceHost
from fogtune.platform.federation.messages import EvaluationJob, HostPlan

MakeConfig = Callable[..., Config]
Versions = dict[str, Mapping[str, Tensors]]

PERSONAL_HEADS = 'federation.modules=[{"match": "head/*", "scope": "device"}]'


def start(config: Config) -> tuple[DeviceHost, HostPlan, Versions]:
    """A host, what it does in round 1 if it is the only one, and version 0 at every aggregating node."""
    host = DeviceHost(config)
    coordinator = Coordinator(config, host.setup())
    logic = {
        node: TierLogic(config, coordinator.tree, coordinator.ownership, node) for node in coordinator.tree.aggregators
    }
    initial = {m: {n: t.clone() for n, t in tensors.items()} for m, tensors in coordinator.setup.initial.items()}
    plan = coordinator.plan(1)
    groups = cohorts(config, coordinator.tree, plan, coordinator.setup.cohort)
    alone = HostPlan(1, plan.personal, tuple(groups))
    return host, alone, {node: one.initial(initial).versions for node, one in logic.items()}


def spoil(host: DeviceHost) -> None:
    """Leave nonsense in the model: who trains or is evaluated takes nothing from it that is in its versions."""
    for parameters in host.bench.model.tensors_of.values():
        for parameter in parameters.values():
            parameter.data.fill_(torch.nan)


def same(ours: Update, theirs: Update) -> bool:
    return ours.metrics == theirs.metrics and ours.modules == theirs.modules


class TestTrain:
    def test_devices_of_a_fog_node_are_added_up(self, tiny: MakeConfig) -> None:
        host, plan, versions = start(tiny())
        reply = host.train(plan, versions, {})
        assert [report.device for report in reply.reports] == ["watch-0", "watch-1", "reader-0", "reader-1", "coach-0"]
        assert all(report.error is None and report.personal for report in reply.reports)
        total = reply.updates["fog-0"].modules["head/exercise"]
        assert isinstance(total, ModuleSum)
        assert total.contributors == 2  # watch-0 and coach-0
        assert total.weight == 2 * 10  # 12 samples each, of which 2 are kept for testing
        assert reply.updates["fog-1"].metrics["samples/topic"] == 8  # reader-1

    def test_it_does_not_matter_who_shares_the_process(self, tiny: MakeConfig) -> None:
        host, plan, versions = start(tiny())
        together = host.train(plan, versions, {}).updates
        apart: dict[str, Update] = {}
        watches, readers, coaches = plan.cohorts
        for some in ((coaches, readers), (watches,)):
            spoil(host)
            for node, update in host.train(replace(plan, cohorts=some), versions, {}).updates.items():
                apart[node] = apart.get(node, Update.empty()) + update
        assert together.keys() == apart.keys()
        assert all(same(together[node], apart[node]) for node in together)

    def test_version_0_lies_where_others_have_it_too(self, tiny: MakeConfig) -> None:
        host, plan, versions = start(tiny())
        before = host.train(plan, versions, {}).updates
        initial = {m: {n: t.clone() for n, t in tensors.items()} for m, tensors in host.setup().initial.items()}
        host.share(initial)
        for own in (host.bench.model.tensors_of, host.setup().initial):
            assert own.keys() == initial.keys()
            assert all(own[m][n].data_ptr() == t.data_ptr() for m, named in initial.items() for n, t in named.items())
        after = host.train(plan, versions, {}).updates
        assert all(same(before[node], after[node]) for node in before)

    def test_a_device_that_diverges_is_a_failure_of_its_own(self, tiny: MakeConfig) -> None:
        host, plan, versions = start(tiny())
        whole = host.train(plan, versions, {})
        poisoned = {
            name: torch.full_like(tensor, torch.nan) for name, tensor in versions["fog-1"]["prompt/exercise"].items()
        }
        versions["fog-1"] = {**versions["fog-1"], "prompt/exercise": poisoned}
        reply = host.train(plan, versions, {})
        errors = {report.device: report.error for report in reply.reports if report.error}
        assert errors.keys() == {"watch-1"}
        assert errors["watch-1"].startswith("update rejected: not finite in tensor 'encoder/imu/")
        assert "watch-1" not in reply.states
        assert same(reply.updates["fog-0"], whole.updates["fog-0"])
        readers = reply.updates["fog-1"].modules["head/topic"]
        assert readers == whole.updates["fog-1"].modules["head/topic"]

    def test_a_device_that_would_keep_what_diverged_fails_too(self, tiny: MakeConfig) -> None:
        host, plan, versions = start(tiny("federation.cadence.device=2", "federation.cadence.fog=2"))
        poisoned = {
            name: torch.full_like(tensor, torch.inf) for name, tensor in versions["fog-0"]["head/topic"].items()
        }
        versions["fog-0"] = {**versions["fog-0"], "head/topic": poisoned}
        reply = host.train(plan, versions, {})
        errors = {report.device for report in reply.reports if report.error}
        assert errors == {"reader-0", "coach-0"}
        assert set(reply.states["watch-0"].kept) >= {"encoder/imu", "head/exercise"}

    def test_a_robust_rule_keeps_updates_apart(self, tiny: MakeConfig) -> None:
        host, plan, versions = start(tiny("federation.rule.kind=median"))
        held = host.train(plan, versions, {}).updates["fog-0"].modules["head/topic"]
        assert isinstance(held, HeldUpdates)
        assert [one.sender for one in held.contributions] == ["coach-0", "reader-0"]

    def test_scaffold_sends_changes_of_control_variates_along(self, tiny: MakeConfig) -> None:
        host, plan, versions = start(tiny("federation.rule.kind=scaffold", "local.optimizer=sgd", PERSONAL_HEADS))
        reply = host.train(plan, versions, {})
        update = reply.updates["fog-1"].modules["prompt/topic"]
        assert isinstance(update, ModuleSum)
        parameters = set(host.bench.model.tensors_of["prompt/topic"])
        assert set(update.total) == parameters | {f"control/{name}" for name in parameters}
        state = reply.states["reader-1"]
        assert "prompt/topic" in state.controls
        assert "head/topic" not in state.controls  # nobody else's drift to correct
        assert set(state.kept["head/topic"]) == {"weight", "bias"}


class TestEvaluate:
    def test_it_adds_up_over_chunks_and_hosts(self, tiny: MakeConfig) -> None:
        host, _, versions = start(tiny("evaluation.batch_size=4"))
        whole = host.evaluate([EvaluationJob("topic", "cloud", (0, 1, 2))], versions, {})
        parts = [host.evaluate([EvaluationJob("topic", "cloud", chunks)], versions, {}) for chunks in ((0, 2), (1,))]
        assert whole["topic", "cloud"]["samples"] == 12
        for name, count in whole["topic", "cloud"].items():
            assert count == sum(part["topic", "cloud"][name] for part in parts)

    def test_a_device_that_has_not_trained_yet_has_what_it_started_with(self, tiny: MakeConfig) -> None:
        host, plan, versions = start(tiny(PERSONAL_HEADS))
        jobs = [EvaluationJob("topic", "reader-0", (0,))]
        fresh = host.evaluate(jobs, versions, {})
        states = host.train(plan, versions, {}).states
        both = [EvaluationJob("topic", "reader-1", (0,)), *jobs]
        found = host.evaluate(both, versions, {"reader-1": states["reader-1"]})
        assert found["topic", "reader-0"] == fresh["topic", "reader-0"]

    def test_a_personal_model_is_the_devices_own(self, tiny: MakeConfig) -> None:
        host, plan, versions = start(tiny(PERSONAL_HEADS))
        states = host.train(plan, versions, {}).states
        own = states["reader-0"].kept["head/topic"]
        always = {"weight": torch.zeros_like(own["weight"]), "bias": torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0])}
        states = {**states, "reader-0": states["reader-0"]._replace(kept={"head/topic": always})}
        jobs = [EvaluationJob("topic", "reader-0", (0,)), EvaluationJob("topic", "reader-1", (0,))]
        result = host.evaluate(jobs, versions, states)
        third = int((host.bench.targets["topic"][host.bench.held_out("topic")] == 2).sum())
        assert result["topic", "reader-0"]["correct"] == third
        assert result["topic", "reader-1"] == host.evaluate(jobs[1:], versions, states)["topic", "reader-1"]

    def test_a_region_is_evaluated_on_the_modalities_that_its_devices_collect(
        self, tiny: MakeConfig, images: tuple[str, ...]
    ) -> None:
        config = tiny(*images, "devices.0.count=1", 'federation.modules=[{"match": "head/vqa", "scope": "fog"}]')
        host, _, versions = start(config)
        assert "encoder/image" not in versions["fog-1"]
        targets = host.bench.targets["vqa"][host.bench.held_out("vqa")]
        usual = int(targets.mode().values)
        assert usual != 0  # which the largest of numbers that are none would be
        head = {name: torch.zeros_like(tensor) for name, tensor in versions["fog-1"]["head/vqa"].items()}
        head["bias"] = torch.eye(13)[usual]
        versions = {node: {**modules, "head/vqa": head} for node, modules in versions.items()}
        spoil(host)  # also the encoder, which would make numbers that are none of all answers
        answers = host.evaluate([EvaluationJob("vqa", "fog-1", (0,))], versions, {})
        assert answers["vqa", "fog-1"] == {"samples": 8, "correct": int((targets == usual).sum())}


def test_training_and_evaluation_leave_the_model_as_it_was(tiny: MakeConfig) -> None:
    """It is version 0 of all that devices have not got from anybody."""
    host, plan, versions = start(tiny(PERSONAL_HEADS))
    model = host.bench.model
    before = {module: model.tensors(module) for module in model.tensors_of}
    states = host.train(plan, versions, {}).states
    assert not torch.equal(states["reader-0"].kept["head/topic"]["weight"], before["head/topic"]["weight"])
    host.evaluate(
        [EvaluationJob("topic", "reader-0", (0,)), EvaluationJob("topic", "reader-1", (0,))], versions, states
    )
    for module, tensors in before.items():
        assert all(torch.equal(model.tensors_of[module][name], tensor) for name, tensor in tensors.items())


def test_a_device_goes_on_from_what_it_remembers(tiny: MakeConfig) -> None:
    config = tiny(PERSONAL_HEADS, "federation.rule.kind=scaffold", "local.optimizer=sgd")
    host, plan, versions = start(config)
    states = host.train(plan, versions, {}).states
    second = replace(plan, round=2)
    fresh = host.train(second, versions, {})
    expected = host.train(second, versions, states)
    assert not same(fresh.updates["fog-1"], expected.updates["fog-1"])
    spoil(host)
    again = host.train(second, versions, states).updates
    assert all(same(again[node], expected.updates[node]) for node in again)
