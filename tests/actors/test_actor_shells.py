"""The plain classes inside the actors: how they read in Ray's dashboard, and what they keep of an unfinished round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fogtune.actors.aggregators import AggregatorActor
from fogtune.actors.coordinator import CoordinatorActor
from fogtune.actors.hosts import HostActor
from fogtune.platform.aggregation import ModuleSum, Tensors, Update
from fogtune.platform.config import Config
from fogtune.platform.federation.local_runner import LocalRunner
from fogtune.platform.modules import module_names

MakeConfig = Callable[..., Config]


@pytest.fixture
def config(tiny: MakeConfig) -> Config:
    return tiny()


def initial(config: Config) -> dict[str, Tensors]:
    return {module: {"weight": torch.zeros(1)} for module in module_names(config)}


def update(value: float, weight: int = 1) -> Update:
    return Update({"head/topic": ModuleSum.of({"weight": torch.tensor([value])}, weight)}, {})


def test_they_read_like_the_federation(config: Config) -> None:
    assert repr(CoordinatorActor(config, "run-1")) == "coordinator (smoke)"
    assert repr(AggregatorActor("fog/0", config, "fog-0", initial(config))) == "fog/0 (3 children)"
    assert repr(HostActor("devices/0/0", config, ("watch-0", "reader-0"))) == "devices/0/0 (2 devices)"
    assert repr(HostActor("device/watch-0", config, ("watch-0",))) == "device/watch-0"


def test_a_node_forgets_what_came_in_a_round_that_was_not_closed(config: Config) -> None:
    node: Any = AggregatorActor("fog/0", config, "fog-0", initial(config))
    node.add(update(100.0))
    node.begin()
    node.add(update(1.0, 3))
    node.add(update(5.0, 1))
    upward, (sent, made) = node.close(1, ())
    assert (sent, made) == (("head/topic",), ())
    total = upward.modules["head/topic"]
    assert total.weight == 4
    assert total.mean()["weight"].tolist() == [2.0]
    assert node.close(2, ())[1] == ((), ())  # nothing is counted twice


def test_a_node_takes_over_what_it_is_told(config: Config) -> None:
    node: Any = AggregatorActor("fog/0", config, "fog-0", initial(config))
    above = {module: {"weight": torch.ones(1)} for module in module_names(config)}
    node.adopt(1, ("head/topic",), above)
    assert node.versions()["head/topic"]["weight"].tolist() == [1]
    assert node.versions()["head/exercise"]["weight"].tolist() == [0]
    other: Any = AggregatorActor("fog/0", config, "fog-0", initial(config))
    other.restore(node.state())
    assert other.versions()["head/topic"]["weight"].tolist() == [1]


def test_a_host_keeps_the_states_of_its_own_devices(tiny: MakeConfig) -> None:
    config = tiny('federation.modules=[{"match": "head/*", "scope": "device"}]', "evaluation.personal=false")
    runner = LocalRunner(config)
    runner.round(1)
    runner.close()
    everybody = dict(runner.snapshot().devices)
    host: Any = HostActor("devices/0/0", config, ("watch-0", "reader-0"))
    threads = torch.get_num_threads()
    host.load()
    torch.set_num_threads(threads)
    host.restore(everybody)
    assert set(host.states()) == {"watch-0", "reader-0"}
    assert set(host.states()["reader-0"].kept) == {"head/topic"}
