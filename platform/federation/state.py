"""What the coordinator remembers from round to round."""

from __future__ import annotations

from dataclasses import dataclass, field

OWN = "own"
"""Stamp of a module whose newest version is on the device itself."""


@dataclass
class CoordinatorState:
    """Small values only. A version's *stamp* is the round in which it was made."""

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
    updates_lost: int = 0
    """Planned updates that never arrived, over all rounds."""
    ready_s: dict[str, float] = field(default_factory=dict)
    """Node -> virtual time at which it can begin the next round; empty without a network, as are:"""
    spent_j: dict[str, float] = field(default_factory=dict)
    """Device -> energy that it has spent."""
    trained: dict[str, dict[str, int]] = field(default_factory=dict)
    """Device -> task -> rounds in which it has trained it."""
    headed: dict[str, int] = field(default_factory=dict)
    """Device -> rounds in which it was a cluster head."""
    moved: dict[str, float] = field(default_factory=dict)
    """Module -> its relative change a round when it was averaged last; empty without adaptive cadences, as are:"""
    sent: dict[str, int] = field(default_factory=dict)
    """Module -> round in which it was averaged last."""
    cadences: dict[str, int] = field(default_factory=dict)
    """Module -> its cadence as chosen last."""
