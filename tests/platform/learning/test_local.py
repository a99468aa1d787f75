"""Local training on real data and weights: step sizes, corrections, counts, missing modalities, no memory of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from fogtune.platform.aggregation import Tensors, control_name, is_control
from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.learning.batches import collate
from fogtune.platform.learning.local import Trained, learning_rate, train
from fogtune.platform.learning.pupil import Member
from fogtune.platform.learning.workbench import Workbench
from fogtune.platform.modules import is_statistics

MakeConfig = Callable[..., Config]

SGD = ("local.optimizer=sgd", "local.clip_norm=null", "local.learning_rate=0.05", "model.experts=null")
ONE_STEP = "local.batch_size=64"


def start_of(bench: Workbench, device: str) -> dict[str, Tensors]:
    """The modules that a device owns, as the model holds them now."""
    return {module: bench.model.tensors(module) for module in bench.ownership.modules_of[device]}


def train_once(
    bench: Workbench, device: str, start: Mapping[str, Tensors] | None = None, round_number: int = 1
) -> Trained:
    experts = tuple(range(bench.model.num_experts))
    return train(bench, [Member(device, start or start_of(bench, device), experts)], round_number)[0][0]


def same(ours: Mapping[str, Tensors], theirs: Mapping[str, Tensors]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[module][name])
        for module, tensors in ours.items()
        for name, tensor in tensors.items()
    )


def distance(ours: Mapping[str, Tensors], theirs: Mapping[str, Tensors]) -> float:
    """Of what was trained."""
    squares = [
        float(((tensor - theirs[module][name]) ** 2).sum())
        for module, tensors in ours.items()
        if not is_statistics(module)
        for name, tensor in tensors.items()
    ]
    return math.sqrt(sum(squares))


def gradients(bench: Workbench, device: str, start: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Of the loss over all training rows of a device with one task, worked out without `train`."""
    leaves = {
        module: {name: tensors[name].clone().requires_grad_() for name in bench.model.tensors_of[module]}
        for module, tensors in start.items()
    }
    ((task, part),) = bench.parts(device).items()
    batch = collate(bench.prefixes, task, part.source, part.modalities, part.train, bench.targets[task])
    with bench.model.holding(leaves):
        bench.head_of(task).losses(bench.model(batch).outputs, batch.targets).mean().backward()  # type: ignore[no-untyped-call]
    return {m: {n: leaf.grad for n, leaf in named.items() if leaf.grad is not None} for m, named in leaves.items()}


class TestLearningRate:
    def test_constant_after_a_warm_up(self, tiny: MakeConfig) -> None:
        config = tiny("local.learning_rate=0.1", "local.warmup_rounds=2")
        rates = [learning_rate(config, progress) for progress in (0, 0.5, 1, 1.5, 2, 3.9)]
        assert rates == pytest.approx([0.00005, 0.02505, 0.05005, 0.07505, 0.1, 0.1])

    def test_cosine_from_the_whole_to_a_tenth(self, tiny: MakeConfig) -> None:
        config = tiny("local.learning_rate=0.2", "local.schedule=cosine", "rounds=8")
        rates = [learning_rate(config, progress) for progress in (0, 2, 4, 6, 8)]
        half = 0.45 * math.sqrt(0.5)
        assert rates == pytest.approx([0.2, 0.2 * (0.55 + half), 0.11, 0.2 * (0.55 - half), 0.02])

    def test_it_is_what_a_step_takes(self, tiny: MakeConfig) -> None:
        bench = Workbench(tiny(*SGD, ONE_STEP, "local.schedule=cosine", "rounds=4"))
        start = start_of(bench, "reader-0")
        bias = gradients(bench, "reader-0", start)["head/topic"]["bias"]
        for number, rate in ((1, 0.05), (3, 0.0275)):  # halfway, 0.55 of it
            moved = train_once(bench, "reader-0", start, number).modules["head/topic"]["bias"]
            assert torch.allclose(moved, start["head/topic"]["bias"] - rate * bias, atol=1e-7)


class TestFedProx:
    def test_a_large_mu_pulls_to_the_start(self, tiny: MakeConfig) -> None:
        settings = (*SGD, "local.epochs=4")
        free = Workbench(tiny(*settings))
        held = Workbench(tiny(*settings, "federation.rule={kind: fedprox, mu: 15}"))
        start = start_of(free, "watch-0")
        far = distance(train_once(free, "watch-0", start).modules, start)
        near = distance(train_once(held, "watch-0", start).modules, start)
        assert 0 < near < 0.8 * far

    def test_at_the_start_nothing_pulls(self, tiny: MakeConfig) -> None:
        free = Workbench(tiny(*SGD, ONE_STEP))
        held = Workbench(tiny(*SGD, ONE_STEP, "federation.rule={kind: fedprox, mu: 15}"))
        start = start_of(free, "watch-0")
        assert same(train_once(free, "watch-0", start).modules, train_once(held, "watch-0", start).modules)


class TestScaffold:
    def test_one_step_by_hand(self, tiny: MakeConfig) -> None:
        """y = x - eta (g - c_i + c), and c_i becomes g: option II with one step."""
        bench = Workbench(tiny(*SGD, ONE_STEP, "federation.rule.kind=scaffold"))
        plain = start_of(bench, "reader-0")
        c = {m: {n: torch.full_like(t, 0.02) for n, t in named.items()} for m, named in plain.items()}
        own = {m: {n: torch.full_like(t, 0.005) for n, t in named.items()} for m, named in plain.items()}
        start = {m: t | {control_name(n): v for n, v in c[m].items()} for m, t in plain.items()}
        g = gradients(bench, "reader-0", plain)
        result = train(bench, [Member("reader-0", start, (), own)], 1)[0][0]
        assert set(result.modules) == {"prompt/topic", "adapter/fusion", "head/topic"}  # no statistics of text
        for module, tensors in result.modules.items():
            assert {n for n in tensors if is_control(n)} == {control_name(n) for n in plain[module]}
            for name, x in plain[module].items():
                gradient = g[module].get(name, torch.zeros_like(x))
                expected = x - 0.05 * (gradient - own[module][name] + c[module][name])
                assert torch.allclose(tensors[name], expected, atol=1e-6)
                change = gradient - own[module][name]
                assert torch.allclose(tensors[control_name(name)], change, atol=1e-4)  # a difference over the step size
                assert torch.allclose(result.controls[module][name], gradient, atol=1e-4)

    def test_several_steps_give_their_mean_gradient(self, tiny: MakeConfig) -> None:
        bench = Workbench(tiny(*SGD, "federation.rule.kind=scaffold", "local.epochs=2"))
        plain = start_of(bench, "reader-0")
        zero = {m: t | {control_name(n): torch.zeros_like(v) for n, v in t.items()} for m, t in plain.items()}
        result = train(bench, [Member("reader-0", zero)], 1)[0][0]
        steps = 2 * -(-8 // 4)  # epochs of 8 rows in batches of 4
        bias = (plain["head/topic"]["bias"] - result.modules["head/topic"]["bias"]) / (steps * 0.05)
        assert torch.allclose(result.controls["head/topic"]["bias"], bias, atol=1e-6)

    def test_with_variates_of_zero_it_is_plain_sgd(self, tiny: MakeConfig) -> None:
        plain = Workbench(tiny(*SGD))
        start = start_of(plain, "reader-0")
        zero = {m: t | {control_name(n): torch.zeros_like(v) for n, v in t.items()} for m, t in start.items()}
        bench = Workbench(tiny(*SGD, "federation.rule.kind=scaffold"))
        found = train(bench, [Member("reader-0", zero)], 1)[0][0].modules
        assert same(
            {m: {n: t for n, t in named.items() if not is_control(n)} for m, named in found.items()},
            train_once(plain, "reader-0", start).modules,
        )


class TestCounts:
    def test_a_module_counts_the_samples_that_passed_through_it(self, tiny: MakeConfig) -> None:
        bench = Workbench(tiny("local.epochs=3"))
        result = train_once(bench, "coach-0")
        exercise, topic = (3 * len(bench.parts("coach-0")[task].train) for task in ("exercise", "topic"))
        assert (exercise, topic) == (30, 24)
        counts = {module: count for module, count in result.samples.items() if not module.startswith("expert/")}
        assert counts == {
            "statistics/imu": 10,  # of those measured, each once
            "encoder/imu": exercise,
            "prompt/exercise": exercise,
            "head/exercise": exercise,
            "prompt/topic": topic,
            "head/topic": topic,
            "adapter/fusion": exercise + topic,
            "router/fusion": exercise + topic,
        }
        assert {task: samples for task, (_, samples) in result.losses.items()} == {"exercise": 30, "topic": 24}
        assert result.samples.keys() == result.modules.keys()

    def test_every_sample_uses_its_top_experts(self, tiny: MakeConfig) -> None:
        bench = Workbench(tiny("model.backbone.fusion_blocks=1"))  # so that no block hides another's counts
        samples = train_once(bench, "reader-0").samples
        experts = {module: count for module, count in samples.items() if module.startswith("expert/")}
        assert sum(experts.values()) == 2 * samples["head/topic"]  # top_k is 2
        assert all(0 < count <= samples["head/topic"] for count in experts.values())

    def test_only_experts_that_are_held_are_used_and_only_the_budget_is_kept(self, tiny: MakeConfig) -> None:
        bench = Workbench(tiny("model.experts.per_device=2", "model.experts.count=6"))
        start = start_of(bench, "reader-0")
        held = {m: t for m, t in start.items() if not m.startswith("expert/") or m in ("expert/1", "expert/4")}
        result = train(bench, [Member("reader-0", held, (1, 4))], 1)[0][0]
        assert {m for m in result.modules if m.startswith("expert/")} == {"expert/1", "expert/4"}
        everything = train_once(bench, "reader-0", start)
        kept = [m for m in everything.modules if m.startswith("expert/")]
        assert len(kept) == 2


class TestMissingModality:
    def test_a_device_with_text_alone_learns_and_answers(self, tiny: MakeConfig, images: tuple[str, ...]) -> None:
        bench = Workbench(tiny(*images, "topology.tiers=[]"))
        image = bench.model.tensors("encoder/image")
        start = start_of(bench, "reader-0")
        assert "encoder/image" not in start
        result = train_once(bench, "reader-0", start)
        assert result.samples["head/vqa"] == 8
        assert distance(result.modules, start_subset(start, result.modules)) > 0
        assert same({"encoder/image": bench.model.tensors("encoder/image")}, {"encoder/image": image})
        part = bench.parts("reader-0")["vqa"]
        assert part.modalities == ("text",)
        batch = collate(bench.prefixes, "vqa", part.source, part.modalities, part.test, bench.targets["vqa"])
        assert bench.model(batch).outputs.shape == (2, 13)
        assert train_once(bench, "camera-0").samples["encoder/image"] == 8


class TestStatistics:
    def test_they_are_of_the_whole_training_part_whatever_the_round_takes(self, tiny: MakeConfig) -> None:
        bench = Workbench(tiny("local.epochs=0.5"))
        rows = bench.parts("watch-0")["exercise"].train
        values = torch.cat([bench.prefixes.get("watch", "imu", int(row)) for row in rows])
        for number in (1, 2):
            result = train_once(bench, "watch-0", round_number=number)
            torch.testing.assert_close(result.modules["statistics/imu"]["mean"], values.mean(0))
            torch.testing.assert_close(result.modules["statistics/imu"]["square"], (values**2).mean(0))
            assert result.samples["statistics/imu"] == len(rows) == 2 * result.samples["encoder/imu"]

    def test_it_trains_with_those_it_started_from(self, tiny: MakeConfig) -> None:
        bench = Workbench(tiny())
        start = start_of(bench, "watch-0")
        assert not start["statistics/imu"]["square"].any()
        first = train_once(bench, "watch-0", start)
        own = first.modules["statistics/imu"]
        assert same({"": first.model["statistics/imu"]}, {"": own})  # nobody knew any
        again = train_once(bench, "watch-0", {**start, "statistics/imu": own})
        assert same(again.modules, first.modules)
        others = {name: 2 * tensor for name, tensor in own.items()}
        told = train_once(bench, "watch-0", {**start, "statistics/imu": others})
        assert same({"": told.model["statistics/imu"]}, {"": others})
        assert same({"": told.modules["statistics/imu"]}, {"": own})
        assert not same({"": told.modules["encoder/imu"]}, {"": first.modules["encoder/imu"]})

    def test_values_too_large_to_be_added_up_are_refused(self, tiny: MakeConfig) -> None:
        bench = Workbench(tiny())
        column = bench.dataset.tables["watch"].modalities["imu"]
        large = [np.asarray(value, np.float32) * 1e4 for value in column]
        bench.dataset.tables["watch"] = replace(bench.dataset.tables["watch"], modalities={"imu": large})
        with pytest.raises(
            InputError, match=r"^model\.encoders\.imu: channel \d of watch has values of about .*e\+04;"
        ):
            train_once(bench, "watch-0")


class TestLogitAdjustment:
    def test_one_step_by_hand(self, tiny: MakeConfig) -> None:
        """The gradient of the head's bias is softmax(outputs + weight * log prior) - one-hot."""
        bench = Workbench(tiny(*SGD, ONE_STEP, "local.logit_adjustment=0.5"))
        start = start_of(bench, "reader-0")
        part = bench.parts("reader-0")["topic"]
        batch = collate(bench.prefixes, "topic", part.source, part.modalities, part.train, bench.targets["topic"])
        counts = torch.bincount(batch.targets, minlength=5) + 1
        with torch.no_grad():
            said = torch.softmax(bench.model(batch).outputs + 0.5 * (counts / counts.sum()).log(), -1)
        gradient = (said - torch.nn.functional.one_hot(batch.targets, 5)).mean(0)
        moved = train_once(bench, "reader-0", start).modules["head/topic"]["bias"]
        torch.testing.assert_close(moved, start["head/topic"]["bias"] - 0.05 * gradient, atol=1e-6, rtol=1e-4)


def start_subset(start: Mapping[str, Tensors], modules: Mapping[str, Tensors]) -> dict[str, Tensors]:
    return {module: start[module] for module in modules}


def test_the_result_does_not_depend_on_who_trained_before(tiny: MakeConfig) -> None:
    bench = Workbench(tiny())
    fresh = {device: start_of(bench, device) for device in ("watch-0", "coach-0", "reader-1")}
    alone = train_once(bench, "coach-0", fresh["coach-0"])
    for other in ("watch-0", "reader-1"):
        train_once(bench, other, fresh[other])
        for parameters in bench.model.tensors_of.values():  # and whatever it left behind
            for parameter in parameters.values():
                parameter.grad = torch.full_like(parameter, torch.nan)
        again = train_once(bench, "coach-0", fresh["coach-0"])
        assert same(again.modules, alone.modules)
        assert again.losses == alone.losses
        assert again.samples == alone.samples


def test_it_learns(tiny: MakeConfig) -> None:
    bench = Workbench(tiny("local.epochs=12", "local.learning_rate=0.003"))
    before = train_once(bench, "reader-0", round_number=1)
    after = train_once(bench, "reader-0", {**start_of(bench, "reader-0"), **before.modules}, 2)
    (early, samples), (late, _) = before.losses["topic"], after.losses["topic"]
    assert late / samples < 0.5 * early / samples


class TestTasks:
    def test_each_has_its_own_number_of_passes(self, tiny: MakeConfig) -> None:
        bench = Workbench(tiny("local.epochs=0.5", "tasks.topic.epochs=2"))
        losses = train_once(bench, "coach-0").losses
        parts = bench.parts("coach-0")
        assert {task: samples for task, (_, samples) in losses.items()} == {
            "exercise": len(parts["exercise"].train) // 2,
            "topic": 2 * len(parts["topic"].train),
        }

    def test_one_that_has_not_begun_is_not_trained(self, tiny: MakeConfig) -> None:
        bench = Workbench(tiny("tasks.topic.begins=2"))
        start = {m: t for m, t in start_of(bench, "coach-0").items() if m not in ("head/topic", "prompt/topic")}
        assert set(train_once(bench, "coach-0", start).losses) == {"exercise"}
        assert set(train_once(bench, "coach-0", round_number=2).losses) == {"exercise", "topic"}
