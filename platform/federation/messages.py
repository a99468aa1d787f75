"""What the coordinator, hosts and aggregating nodes tell each other in a round. All are values; all pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fogtune.platform.aggregation import Tensors, Update

from .device_state import States


class DeviceOrder(NamedTuple):
    """What one device does this round."""

    device: str
    modules: tuple[str, ...]
    """Modules that it trains; of the experts, those that it holds."""
    experts: tuple[int, ...]
    """Experts that it holds; routing is among these."""
    fetched: tuple[str, ...]
    """Modules that it downloads first, because its parent has a newer version than it holds."""
    upward: tuple[str, ...]
    """Modules that it sends to its parent if it trains them; it keeps the others."""
    changes: tuple[str, ...] = ()
    """Of those fetched, the ones that it gets as changes of the version that it has."""
    relays: tuple[str, ...] = ()
    """Devices over which its update goes to its access node, or its head, from its side; none if it goes directly."""
    head: str | None = None
    """Cluster head that adds its update to others, before they go up together; itself, if it is one. Null for none."""
    sources: Mapping[str, tuple[str, ...]] = {}
    """Module fetched -> nodes over which it comes, from its side; the last, a device or the access node, has it. It
    hears the access node's broadcast of those that are left out."""
    lost: str | None = None
    """Why its update will not arrive, in one line; it sends it all the same."""
    begun: int | None = None
    """Round in which it got what it starts from, where its node has gone on without it since; null for this one."""
    until_s: float = math.inf
    """Virtual time at which its node goes on without it, and it stops; never, if it is waited for."""
    behind: Mapping[str, int] = {}
    """Module sent upward -> by how many rounds its node's newest version is newer than what it starts from; those that
    are as new are left out."""

    def receiver(self, parent: str) -> str:
        """Who adds its update up."""
        return self.head or parent


@dataclass(frozen=True)
class Decision:
    """Something that was decided from what it costs."""

    about: str
    """Device or module."""
    what: str
    """`sits out`, `is relayed`, `is headed`, `is lost`, `is held back`, `is handed on`, `is late` (it comes in a later
    round), `is too late` (it is not used)."""
    why: str
    """In one line, with the figures."""


@dataclass(frozen=True)
class EvaluationJob:
    """Chunks of a task's held-out rows to be evaluated with one variant of the model."""

    task: str
    variant: str
    """Node whose versions are evaluated: the cloud, an aggregating node, or a device."""
    chunks: tuple[int, ...]
    """Chunk i holds rows i * evaluation.batch_size and so on."""


@dataclass(frozen=True)
class RoundPlan:
    """The coordinator's decisions for a round."""

    round: int
    orders: tuple[DeviceOrder, ...]
    """In the order of the tree's devices."""
    personal: bool
    """Whether devices evaluate their own models."""
    evaluate: bool
    """Whether the global model is evaluated at the end."""
    first: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Aggregating node, from the top down -> modules that it lacks: its parent gives it those before anything else."""
    held_back: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tier -> modules that its nodes do not send upward, though their own cadence would have it."""
    decisions: tuple[Decision, ...] = ()
    """What was decided from costs, and why."""
    links: tuple[tuple[str, str], ...] = ()
    """Pairs of participants that hear each other, for cooperative training."""
    late: tuple[DeviceOrder, ...] = ()
    """Of devices whose update would come too late, by the clock; they are not among `orders`."""
    beginning: tuple[DeviceOrder, ...] = ()
    """Of devices that get what they start from in this round, and whose update comes in a later one."""
    cut_off: frozenset[str] = frozenset()
    """Aggregating nodes whose sums would come too late, and are not sent."""
    away: frozenset[str] = frozenset()
    """Aggregating nodes whose sums come in a later round: till then nothing begins or ends below them."""

    behind: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Aggregating node that was away -> module -> by how many rounds its parent's version is newer than its own."""

    def stays(self, module: str, node: str, tier: str) -> bool:
        """Whether a node of a tier does not send a module upward, though its cadence would have it go up."""
        return node in self.cut_off or module in self.held_back.get(tier, ())


@dataclass(frozen=True)
class HostPlan:
    """What a host does in a round."""

    round: int
    personal: bool
    """Whether devices evaluate their own models."""
    cohorts: tuple[tuple[DeviceOrder, ...], ...]
    """Orders of devices that train together (cohorts.py)."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """Receiver of devices' updates -> who adds up in its place what it is sent; itself where it is not named."""


class DeviceReport(NamedTuple):
    """What became of an order."""

    device: str
    error: str | None
    """Why the device delivered nothing, in one line; None if it delivered."""
    sent: tuple[str, ...] = ()
    """Modules that it sent upward."""
    kept: tuple[str, ...] = ()
    """Modules that it trained and keeps: personal ones, and those not due."""
    experts: tuple[int, ...] = ()
    """Experts that its samples were routed to."""
    personal: Mapping[str, Mapping[str, float]] | None = None
    """Task -> metrics of its own model on its own test part, where evaluated."""
    loss: float | None = None
    """Mean loss of its training; None if it has none."""
    failure: str | None = None
    """Of which kind the error is, to be counted by: `crash`, `time-out`, `exception`, `link`, `head`, or the reason for
    which an update was rejected (`not finite`, `layout differs`, ...)."""


@dataclass(frozen=True)
class HostReply:
    """A host's answer: the devices' updates, pre-summed by who adds them up, and a report a device."""

    updates: Mapping[str, Update]
    """Parent of devices, or cluster head -> the sum of what devices of this host send it."""
    reports: tuple[DeviceReport, ...]
    states: States = field(default_factory=dict)
    """Of the devices that have trained; what they remembered before holds where their updates are lost."""
    spent: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """Device group -> seconds that its devices took here, and how many they were."""


@dataclass(frozen=True)
class Workload:
    """What one task asks of a device's processor."""

    task: str
    samples: int
    """Of its training part."""
    sample_flops: float
    """To train on one sample once."""
    prefix_flops: float
    """To compute what is frozen of one sample, once in a run."""
    epochs: float = 1.0
    """Passes of a round over the samples."""
    begins: int = 1
    """Round from which the task is executed."""


@dataclass(frozen=True)
class Setup:
    """What the first host tells the coordinator before round 1; all of it follows from the configuration."""

    initial: Mapping[str, Tensors]
    """Module -> version 0; on Ray the process that started the run is not told of it."""
    held_out: Mapping[str, int]
    """Task -> number of held-out rows."""
    labels: Mapping[str, tuple[str, ...]]
    """Task -> label names."""
    adapter_config: Mapping[str, object] | None
    """PEFT's description of the adapter."""
    workloads: Mapping[str, tuple[Workload, ...]] = field(default_factory=dict)
    """Device -> one a task that it executes; empty without a network."""
    samples: Mapping[str, int] = field(default_factory=dict)
    """Device -> samples of its training parts; empty where participants are not drawn by them."""
    cohort: int = 1
    """Devices that train together, at most."""
