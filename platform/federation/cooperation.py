"""Cooperative training: neighbours average the modules that they keep, between two times that these go up.

Who keeps what is known once all have trained; then every neighbourhood of a module mixes it by steps of consensus
(`fogtune.platform.network.gossip`). Modules of scope `device` are personal, statistics are measured: both are left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from fogtune.platform.aggregation import Tensors
from fogtune.platform.modules import is_statistics
from fogtune.platform.ownership import Ownership
from fogtune.platform.topology import DEVICE

from .messages import DeviceReport

if TYPE_CHECKING:  # what knows graphs is loaded where neighbours do average
    import networkx as nx  # type: ignore[import-untyped]

Values = Mapping[tuple[str, str], Tensors]
"""(module, device) -> the device's version."""


@dataclass(frozen=True)
class Cooperation:
    """Who averages what with whom."""

    links: tuple[tuple[str, str], ...] = ()
    """Pairs of devices that hear each other."""
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(module, devices that keep it and reach each other over such devices)."""
    steps: int = 0

    @cached_property
    def graph(self) -> nx.Graph:
        """The links."""
        import networkx as nx

        return nx.Graph(self.links)

    @cached_property
    def shared(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Device, in sorted order -> module -> neighbours that average it with the device."""
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for module, members in self.groups:
            among = set(members)
            for device in members:
                others = tuple(other for other in self.graph.neighbors(device) if other in among)
                found.setdefault(device, {})[module] = others
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class Disagreement:
    """Of a module, summed over neighbourhoods: sum over devices of the squared distance from their mean."""

    before: float
    after: float
    bound: float
    """What `after` is at most, by the spectral gaps."""

    @classmethod
    def total(cls, parts: Mapping[tuple[str, str], Disagreement]) -> dict[str, Disagreement]:
        """Module -> the sum over its groups; the same bits in whatever order the groups were mixed."""
        some: dict[str, list[Disagreement]] = {}
        for module, first in sorted(parts):
            some.setdefault(module, []).append(parts[module, first])
        return {
            module: cls(*(math.fsum(getattr(d, name) for d in of) for name in ("before", "after", "bound")))
            for module, of in some.items()
        }


def cooperation(
    ownership: Ownership, links: Sequence[tuple[str, str]], steps: int, reports: Sequence[DeviceReport]
) -> Cooperation:
    """The cooperation of a round whose devices have trained."""
    if not steps or not links:
        return Cooperation()
    from fogtune.platform.network.gossip import neighbourhoods

    kept: dict[str, list[str]] = {}
    for report in reports:
        for module in report.kept:
            if ownership.scope(module) != DEVICE and not is_statistics(module):
                kept.setdefault(module, []).append(report.device)
    found = Cooperation(tuple(links), (), steps)
    modules = [module for module in ownership.modules if module in kept]  # in whatever order states list them
    groups = ((module, group) for module in modules for group in neighbourhoods(found.graph, kept[module]))
    return replace(found, groups=tuple(groups))


def average(
    found: Cooperation, values: Values, mine: Collection[str]
) -> tuple[Values, dict[tuple[str, str], Disagreement]]:
    """Mix every group that one of the devices `mine` is in.

    Returns:
        What these devices then have; and (module, first member) -> disagreement of the groups whose first member is one
        of them.
    """
    from fogtune.platform.network.gossip import mix

    mixed: dict[tuple[str, str], Tensors] = {}
    told: dict[tuple[str, str], Disagreement] = {}
    for module, members in found.groups:
        if not any(member in mine for member in members):
            continue
        result = mix({member: values[module, member] for member in members}, found.graph, found.steps)
        mixed |= {(module, member): result.values[member] for member in members if member in mine}
        if members[0] in mine:
            told[module, members[0]] = Disagreement(result.before, result.after, result.bound)
    return mixed, told
