"""What happens in a round, as the ledger knows it: transfers of modules over links, and computations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fogtune.platform.run.record import Kind


class Action(NamedTuple):
    """A transfer of modules from one node to others, or a computation on one."""

    kind: Kind
    source: str
    targets: tuple[str, ...]
    """Several where a node sends the same to many at once."""
    modules: Mapping[str, int]
    """Module -> bytes, as serialised; empty for a computation."""
    home: str
    """Node that must be ready for the round before it starts, as devices at either end must be."""
    after: tuple[int, ...] = ()
    """Actions, by index, that must have ended before this one starts."""
    flops: float = 0.0
    """Of a computation."""
    hops: int = 1
    """Of the whole way that the modules take over links of this kind."""
    origin: str = ""
    """Whose update or download is under way, where a link may carry several; attempts of each are drawn anew."""
    lost: bool = False
    """Whether nothing arrives."""
    until_s: float = math.inf
    """Virtual time at which it is broken off."""
    begun: int | None = None
    """Round whose channel it meets, if not this one."""


@dataclass
class Script:
    """The actions of a round, in an order in which each comes after those that it waits for."""

    actions: list[Action] = field(default_factory=list)
    reached: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Node -> actions after which it has what the round gave it, and may go on. Others go on as they were."""
    delivered: dict[str, int] = field(default_factory=dict)
    """Device -> the action that brings its update to its parent, or its last attempt."""
    lost: dict[str, str] = field(default_factory=dict)
    """Device -> the link on which its update is given up."""

    def add(self, action: Action) -> int:
        """Returns the action's index."""
        self.actions.append(action)
        return len(self.actions) - 1


@dataclass(frozen=True)
class Cost:
    """What an action took."""

    start_s: float
    seconds: float
    sender_j: float
    """Of the source; of a computation all there is."""
    receiver_j: Mapping[str, float]
    """Of each target."""

    @property
    def end_s(self) -> float:
        return self.start_s + self.seconds


def spent(script: Script, played: Sequence[Cost]) -> dict[str, float]:
    """Node -> joules that it spends in a script."""
    joules: dict[str, float] = {}
    for action, cost in zip(script.actions, played, strict=True):
        for node, some in ((action.source, cost.sender_j), *cost.receiver_j.items()):
            joules[node] = joules.get(node, 0.0) + some
    return joules
