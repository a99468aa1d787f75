"""The plain classes inside the actors: how they read in Ray's dashboard, and what they keep of an unfinished round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fogtune.actors.aggregators import AggregatorActor, Closing
from fogtune.actors.coordinator import CoordinatorActor
from fogtune.actors.hosts import HostActor
from fogtune.actors.parts import Layout
from fogtune.platform.aggregation import ModuleSum, Update
from fogtune.platform.config import Config

MakeConfig = Callable[..., Config]


@pytest.fixture
def config(tiny: MakeConfig) -> Config:
    return tiny()


def update(value: float, weight: int = 1) -> Update:
    return Update({"head/topic": ModuleSum.of({"weight": torch.tensor([value])}, weight)}, {})


def test_they_read_like_the_federation(config: Config) -> None:
    assert repr(CoordinatorActor(config, "run-1")) == "coordinator (smoke)"
    assert repr(AggregatorActor("fog/0", config, ("fog-0",), {}, "run-1")) == "fog/0 (3 children)"
    assert repr(AggregatorActor("fog/0+1", config, ("fog-0", "fog-1"), {}, "run-1")) == "fog/0+1 (2 nodes, 5 children)"
    assert repr(HostActor("devices/0/0", config, 2, "run-1")) == "devices/0/0 (2 devices)"
    assert repr(HostActor("device/watch-0", config, 1, "run-1")) == "device/watch-0"


def closing(attempt: int, round_number: int, *nodes: str, layout: Layout | None = None) -> Closing:
    """Of nodes below the cloud."""
    slots = {"cloud": [(node, "cloud") for node in nodes]}
    return Closing(attempt, round_number, dict.fromkeys(nodes, ()), slots, layout or {}, int(bool(layout)), {}, {})


def test_a_node_forgets_what_came_in_an_attempt_that_was_not_closed(config: Config) -> None:
    actor: Any = AggregatorActor("fog/0", config, ("fog-0",), {}, "run-1")
    actor.add(1, {"fog-0": update(100.0)})
    actor.add(2, {"fog-0": update(1.0, 3)})
    actor.add_one(2, "fog-0", update(5.0, 1))
    told, bundle = actor.close(closing(2, 1, "fog-0"))
    assert told == {"fog-0": (("head/topic",), ())}
    total = bundle["cloud"].modules["head/topic"]
    assert total.weight == 4
    assert total.mean()["weight"].tolist() == [2.0]
    told, _ = actor.close(closing(3, 2, "fog-0"))
    assert told == {"fog-0": ((), ())}  # nothing is counted twice


def test_a_node_holds_what_it_made_until_it_goes_on_from_others(tiny: MakeConfig) -> None:
    actor: Any = AggregatorActor("fog/0", tiny("federation.cadence.fog=2"), ("fog-0", "fog-1"), {}, "run-1")
    above = {"head/topic": {"weight": torch.zeros(1)}}
    assert actor.made() == {}
    actor.add(1, {"fog-0": update(3.0)})
    layout = dict.fromkeys(("fog-0", "fog-1"), ((0, "cloud", ("head/topic",)),))
    actor.close(closing(1, 1, "fog-0", "fog-1", layout=layout), {"cloud": above})
    assert {node: list(versions) for node, versions in actor.made().items()} == {"fog-0": ["head/topic"]}
    assert actor.made()["fog-0"]["head/topic"]["weight"].tolist() == [3]
    other: Any = AggregatorActor("fog/0", tiny(), ("fog-0", "fog-1"), {}, "run-1")
    other.restore(actor.states())
    assert other.made()["fog-0"]["head/topic"]["weight"].tolist() == [3]
    actor.adopt(1, {}, {"fog-0": ("head/topic",)}, {})
    assert actor.made() == {}
