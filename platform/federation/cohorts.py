"""Cohorts: devices that train together in a round. They follow from the configuration and the round's plan alone, so
that neither the number of processes nor who is faster changes a bit of what they learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from fogtune.platform.aggregation import Tensors
from fogtune.platform.config import Config
from fogtune.platform.topology import Tree

from .messages import DeviceOrder, DeviceReport, RoundPlan

_WITH_BACKBONE = 8
"""Devices at most: what is gained by more is little where the products with frozen weights decide."""
_WITHOUT = 32
_UNTRAINED = 256
"""Of one version, a sum for many takes as long as one for a few."""
_BYTES = 2**27
"""Of the trained values of a cohort, besides which there are gradients and the optimizer's two moments."""


def cohorts(config: Config, tree: Tree, plan: RoundPlan, size: int) -> list[tuple[DeviceOrder, ...]]:
    """The round's devices, each in one cohort with others of its group and machine, `size` of them at most.

    Cohorts of a group are of about one size, and more than one are an even number of them: so are most machines'
    processors.

    Devices whose update is lost on the way train nothing, and are in none. Those that return what they got are in one
    with others of their node's, as one version is then all that there is of them.
    """
    groups: dict[tuple[str | None, ...], list[DeviceOrder]] = {}
    for order in plan.orders:
        if not order.lost:
            node = tree[order.device]
            alike = (node.group, node.machine)
            key = (*alike, node.parent) if _is_untrained(config) else alike
            groups.setdefault(key, []).append(order)
    return [cohort for orders in groups.values() for cohort in _divided(orders, size)]


def _divided(orders: Sequence[DeviceOrder], size: int) -> list[tuple[DeviceOrder, ...]]:
    parts = -(-len(orders) // size)
    if parts > 1:
        parts = min(parts + parts % 2, len(orders))
    ends = [len(orders) * (i + 1) // parts for i in range(parts)]
    return [tuple(orders[start:end]) for start, end in pairwise([0, *ends])]


def lost(plan: RoundPlan) -> list[DeviceReport]:
    """The reports of those whose update is lost on the way."""
    return [DeviceReport(order.device, order.lost, failure="link") for order in plan.orders if order.lost]


def in_order(plan: RoundPlan, reports: Iterable[DeviceReport]) -> list[DeviceReport]:
    """Reports in the order of the plan."""
    position = {order.device: i for i, order in enumerate(plan.orders)}
    return sorted(reports, key=lambda report: position[report.device])


def cohort_size(config: Config, initial: Mapping[str, Tensors]) -> int:
    """Devices of a cohort, of a configuration and version 0 of its modules."""
    if config.execution.fused_devices != "auto":
        return config.execution.fused_devices
    if _is_untrained(config):
        return _UNTRAINED
    most = _WITHOUT if config.model.backbone is None else _WITH_BACKBONE
    nbytes = sum(tensor.nbytes for tensors in initial.values() for tensor in tensors.values())
    return max(1, min(most, _BYTES // max(1, nbytes)))


def _is_untrained(config: Config) -> bool:
    return config.local.optimizer == "none"
