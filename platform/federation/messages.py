"""What the coordinator, hosts and aggregating nodes tell each other in a round. All are values; all pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fogtune.platform.aggregation import Tensors, Update


@dataclass(frozen=True)
class DeviceOrder:
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


@dataclass(frozen=True)
class DeviceReport:
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


@dataclass(frozen=True)
class HostReply:
    """A host's answer: the devices' updates pre-summed by parent, and a report a device."""

    updates: Mapping[str, Update]
    reports: tuple[DeviceReport, ...]


@dataclass(frozen=True)
class Setup:
    """What the first host tells the coordinator before round 1; all of it follows from the configuration."""

    initial: Mapping[str, Tensors]
    """Module -> version 0."""
    held_out: Mapping[str, int]
    """Task -> number of held-out rows."""
    labels: Mapping[str, tuple[str, ...]]
    """Task -> label names."""
    adapter_config: Mapping[str, object] | None
    """PEFT's description of the adapter."""
