"""What a run writes down: a record a round, a ledger row a transfer or computation, a summary of the whole.

Every cost in a `RoundRecord` (seconds, joules, bytes) is of that round alone; the `Summary` adds them up.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypedDict

LINKS = ("uplink", "downlink", "backhaul", "d2d")
"""Kinds of link that carry bytes, in the order in which tables and charts list them."""

Kind = Literal["uplink", "downlink", "backhaul", "d2d", "compute"]
"""Kind of a ledger row."""

Status = Literal["running", "completed", "failed", "stopped"]
"""Status of a run; only a running one is still being written."""

Metrics = Mapping[str, Mapping[str, float]]
"""Task -> metric -> value."""


class TreeEntry(TypedDict):
    """A node's place in the tree, and what makes it own its modules."""

    tier: str
    parent: str | None
    group: str | None
    modalities: list[str]
    tasks: list[str]
    modules: list[str]


class NodeEntry(TreeEntry, total=False):
    """A node as `topology.json` has it. Its position, in metres, is null where none is known; older runs lack it."""

    x_m: float | None
    y_m: float | None


@dataclass(frozen=True)
class RoundRecord:
    """One round: a line of `rounds.jsonl`."""

    round: int
    """Counted from 1."""
    rounds: int
    """Rounds that the run is going to have."""
    wall_s: float
    virtual_time_s: float | None
    """Null without a network model."""
    energy_j: float | None
    """Null without a network model."""
    bytes: Mapping[str, int]
    """Link kind (`LINKS`) -> bytes that went over it."""
    participants: int
    dropped: int
    """Participants whose update was planned and did not come, or came too late."""
    updates_lost: int
    loss: Mapping[str, float]
    """Task -> mean training loss of the round."""
    tasks: Metrics
    """Task -> metric -> held-out value of the global model, with `personal_mean` and `personal_worst_decile` of the
    devices' own models; empty when the round was not evaluated."""
    modules_moved: Mapping[str, int]
    """Module -> bytes, all links together."""
    decisions: list[dict[str, str]] = field(default_factory=list)
    """What was decided from costs: `about` (a device or module), `what`, and `why` in one line."""
    disagreement: dict[str, dict[str, float]] = field(default_factory=dict)
    """Module that neighbours averaged -> `before`, `after` (sums of squared distances from their means), and the
    `bound` on `after` by the spectral gaps."""
    failures: dict[str, int] = field(default_factory=dict)
    """Kind of failure -> participants whose updates are missing for it: `crash`, `time-out`, `exception`, `link`,
    `head`, `too late` (those are not lost), or why they were rejected (`not finite`, `layout differs`, ...)."""
    under_way: int = 0
    """Devices whose updates come in a later round."""

    def to_json(self) -> str:
        """One line; a value that is not finite is written as null."""
        return dump_json({name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The record that wrote this line. Raises ValueError if none did."""
        found = json.loads(line)
        later = {"decisions", "disagreement", "failures", "under_way"}  # which older runs have not
        required = cls.__dataclass_fields__.keys() - later
        if not isinstance(found, dict) or (missing := required - found.keys()):
            raise ValueError("not a round" if not isinstance(found, dict) else f"without {', '.join(sorted(missing))}")
        values = {name: found[name] for name in cls.__dataclass_fields__ if name in found}
        try:
            values["loss"] = _floats(values["loss"])
            values["tasks"] = {task: _floats(metrics) for task, metrics in values["tasks"].items()}
            values["bytes"] = {kind: int(count) for kind, count in values["bytes"].items()}
            values["modules_moved"] = {module: int(count) for module, count in values["modules_moved"].items()}
        except (AttributeError, TypeError) as error:
            raise ValueError(f"not a round ({error})") from None
        return cls(**values)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One transfer of a module over a link, or one computation on a node (then source and target are that node)."""

    round: int
    kind: Kind
    source: str
    target: str
    module: str
    bytes: int
    hops: int
    start_s: float | None
    """Virtual time since the start of the run; null without a network model, as are the next two."""
    seconds: float | None
    joules: float | None
    lost: bool = False
    """Whether nothing arrived."""


@dataclass(frozen=True)
class Summary:
    """A run so far. A total is null if any of its rounds has none."""

    rounds: int = 0
    """Number of the last round that was finished."""
    wall_s: float = 0.0
    """Of the rounds, without setting up."""
    virtual_time_s: float | None = 0.0
    energy_j: float | None = 0.0
    updates_lost: int = 0
    bytes: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(LINKS, 0))
    tasks: Metrics = field(default_factory=dict)
    """Of the last evaluated round."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Kind of failure -> updates that are missing for it."""

    @classmethod
    def of(cls, records: Iterable[RoundRecord]) -> Summary:
        """The summary of these rounds, in order."""
        summary = cls()
        for record in records:
            summary = summary.add(record)
        return summary

    def add(self, record: RoundRecord) -> Summary:
        """The summary with one round more."""
        links = {**self.bytes, **record.bytes}
        return replace(
            self,
            rounds=record.round,
            wall_s=self.wall_s + record.wall_s,
            virtual_time_s=_plus(self.virtual_time_s, record.virtual_time_s),
            energy_j=_plus(self.energy_j, record.energy_j),
            updates_lost=self.updates_lost + record.updates_lost,
            bytes={kind: self.bytes.get(kind, 0) + record.bytes.get(kind, 0) for kind in links},
            tasks=record.tasks or self.tasks,
            failures=dict(Counter(self.failures) + Counter(record.failures)),
        )


def headline(metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """The metric that stands for a task in tables: the first that is neither a loss nor of personal models."""
    for name, value in metrics.items():
        if name != "loss" and not name.startswith("personal_"):
            return name, value
    return None


def dump_json(value: Any, indent: int | None = None) -> str:
    """JSON as every parser reads it: numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _floats(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


def _plus(total: float | None, more: float | None) -> float | None:
    return None if total is None or more is None else total + more
