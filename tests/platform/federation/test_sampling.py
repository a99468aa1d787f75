"""By what participants are drawn: eight readers, of which one is much more likely than the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from fogtune.platform.config import Config
from fogtune.platform.config.check import check
from fogtune.platform.errors import InputError
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.host import DeviceHost
from fogtune.platform.federation.local_runner import LocalRunner
from fogtune.platform.federation.messages import Setup, Workload
from fogtune.platform.modules import module_names

MakeConfig = Callable[..., Config]

READERS = (
    "devices=[{name: reader, count: 8, modalities: [text], tasks: [topic]}]",
    "sources={news: {kind: embedded, asset: bbc-news, partition: {kind: iid}, samples_per_device: 10}}",
    "tasks={topic: {source: news, inputs: [text], label: topic}}",
    "model.encoders={}",
    "federation.participation=0.25",
)
NETWORK = "network={channel: {kind: log-distance, shadowing_db: 0}, radio: {fading: none}, placement: {radius_m: 1}}"


def coordinate(config: Config) -> Coordinator:
    """reader-3 has a hundred times the samples; reader-5 computes for a hundredth of the time."""
    initial = {module: {"weight": torch.zeros(1)} for module in module_names(config)}
    devices = [f"reader-{i}" for i in range(8)]
    samples = {device: 1000 if device == "reader-3" else 10 for device in devices}
    flops = {device: 1e9 if device == "reader-5" else 1e11 for device in devices}
    loads = {device: (Workload("topic", 1, flops[device], 0),) for device in devices}
    return Coordinator(config, Setup(initial, {"topic": 1}, {}, None, loads, samples))


def drawn(coordinator: Coordinator, rounds: int = 200) -> Counter[str]:
    return Counter(order.device for number in range(1, rounds + 1) for order in coordinator.plan(number).orders)


def test_alike(tiny: MakeConfig) -> None:
    counts = drawn(coordinate(tiny(*READERS)))
    assert sum(counts.values()) == 400
    assert max(counts.values()) < 80  # 50 each, and a standard deviation of 6


@pytest.mark.parametrize(("sampling", "likely"), [("data", "reader-3"), ("cost", "reader-5")])
def test_the_likely_one_is_nearly_always_there(tiny: MakeConfig, sampling: str, likely: str) -> None:
    counts = drawn(coordinate(tiny(*READERS, NETWORK, f"federation.sampling={sampling}")))
    assert counts[likely] > 180
    others = [count for device, count in counts.items() if device != likely]
    assert len(others) == 7
    assert max(others) < 60  # 30 each


def test_by_loss_those_without_come_first_then_the_worst(tiny: MakeConfig) -> None:
    coordinator = coordinate(tiny(*READERS, "federation.sampling=loss"))
    coordinator.state.losses = {f"reader-{i}": 0.001 for i in range(7)} | {"reader-6": 2.0}
    counts = drawn(coordinator)
    assert counts["reader-6"] > 180
    assert counts["reader-7"] > 180


def test_losses_are_those_of_the_last_training(tiny: MakeConfig) -> None:
    runner = LocalRunner(tiny(*READERS, "federation.sampling=loss"))
    losses: dict[str, float] = {}
    for number in (1, 2, 3):
        result = runner.round(number)
        now = runner.snapshot().coordinator.losses
        trained = {device: loss for device, loss in now.items() if losses.get(device) != loss}
        assert len(trained) == 2  # with 10 samples each
        assert result.record.loss["topic"] == pytest.approx(math.fsum(trained.values()) / 2)
        losses = dict(now)
    runner.close()


def test_samples_are_counted_by_the_host(tiny: MakeConfig) -> None:
    counted = DeviceHost(tiny(*READERS, "federation.sampling=data")).setup().samples
    assert counted == {f"reader-{i}": 8 for i in range(8)}  # of 10; two are their own test parts


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (("federation.sampling=loss",), "'loss' given, but all devices take part; allowed: uniform"),
        (("federation.sampling=cost", "federation.participation=0.5"), "'cost' given, but there is no network"),
    ],
)
def test_what_has_no_meaning_is_refused(tiny: MakeConfig, changes: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InputError, match=rf"federation\.sampling: {problem}"):
        check(tiny(*changes))
