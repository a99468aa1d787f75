"""What the coordinator remembers from round to round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

OWN = "own"
"""Stamp of a module whose newest version is on the device itself."""


@dataclass
class CoordinatorState:
    """Small values only. A version's *stamp* is the round in which it was made.

    What is in the mappings is replaced and never changed, so that devices which are alike share it, and copies too.
    """

    round: int = 0
    """Rounds concluded."""
    stamps: dict[str, dict[str, int]] = field(default_factory=dict)
    """Aggregating node -> module -> stamp of its version there."""
    previous: dict[str, dict[str, int]] = field(default_factory=dict)
    """The same of the version before, of which those below may get the change."""
    held: dict[str, dict[str, int | str]] = field(default_factory=dict)
    """Device -> module -> stamp of the version that it fetched last, or OWN; of those that have taken part."""
    experts: dict[str, list[int]] = field(default_factory=dict)
    """Device -> experts that its samples used when it trained last."""
    losses: dict[str, float] = field(default_factory=dict)
    """Device -> mean loss of its last training; empty where participants are not drawn by it."""
    updates_lost: int = 0
    """Planned updates that never arrived, over all rounds."""
    ready_s: dict[str, float] = field(default_factory=dict)
    """Node -> virtual time at which it can begin the next round; empty or 0 without a network, as are:"""
    latest_s: float = 0.0
    """The latest of these."""
    spent_j: dict[str, float] = field(default_factory=dict)
    """Device -> energy that it has spent."""
    trained: dict[str, dict[str, int]] = field(default_factory=dict)
    """Device -> task -> rounds in which it has trained it."""
    headed: dict[str, int] = field(default_factory=dict)
    """Device -> rounds in which it was a cluster head."""
    under_way: dict[str, int] = field(default_factory=dict)
    """Device whose update comes in a later round -> round in which it has begun."""
    missed: dict[str, dict[str, int]] = field(default_factory=dict)
    """Aggregating node whose sums come in a later round -> module of which its parent has a newer version meanwhile ->
    stamp of the one that it goes on from."""
    moved: dict[str, float] = field(default_factory=dict)
    """Module -> its relative change a round when it was averaged last; empty without adaptive cadences, as are:"""
    sent: dict[str, int] = field(default_factory=dict)
    """Module -> round in which it was averaged last."""
    cadences: dict[str, int] = field(default_factory=dict)
    """Module -> its cadence as chosen last."""

    def copy(self) -> CoordinatorState:
        """A state that later rounds do not change."""
        copied: dict[str, Any] = {n: dict(value) for n, value in self._values().items() if isinstance(value, dict)}
        return replace(self, **copied)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; what like devices hold is there once, and `held` says which of these each has."""
        number_of: dict[int, int] = {}
        distinct: dict[tuple[tuple[str, int | str], ...], int] = {}
        for held in self.held.values():
            if id(held) not in number_of:
                number_of[id(held)] = distinct.setdefault(tuple(held.items()), len(distinct))
        which = {device: number_of[id(held)] for device, held in self.held.items()}
        return {**self.copy()._values(), "holdings": [dict(items) for items in distinct], "held": which}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CoordinatorState:
        """The state that gave these values."""
        holdings, others = values["holdings"], {name: value for name, value in values.items() if name != "holdings"}
        return cls(**others | {"held": {device: holdings[number] for device, number in values["held"].items()}})

    def _values(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}
