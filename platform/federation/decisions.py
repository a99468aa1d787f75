"""Decisions from costs: who sits a round out, over whom updates go, who adds them up.

They are taken before the round by playing its script with what everyone may send at most, on this round's channel. A
device sits out that has no way up, whose update would come after the deadline, or whose battery would not last; ways
are then decided anew, for those who sit out neither relay, nor head, nor hand anything on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from fogtune.platform.network.actions import Cost, Script, spent
from fogtune.platform.network.downloads import Source, handed_on, over_relays
from fogtune.platform.network.model import NetworkModel
from fogtune.platform.network.routing import Cell, Way, elect_heads, ways_up

from .cooperation import Cooperation
from .costs import RoundCosts
from .messages import Decision, DeviceOrder, RoundPlan
from .script import Moves


@dataclass(frozen=True)
class Decided:
    """The orders that are left, with their ways, and the reasons."""

    orders: tuple[DeviceOrder, ...]
    decisions: tuple[Decision, ...]
    arrivals: Mapping[str, float]
    """Device that sends something -> virtual time at which that comes to its parent."""


@dataclass(frozen=True)
class Devices:
    """What earlier rounds have left of the devices that have joined."""

    joined: frozenset[str]
    having: Mapping[str, frozenset[str]]
    """Module -> devices that still have their parent's newest version; empty where devices share nothing."""
    headed: Mapping[str, int]
    """Device -> rounds in which it was a head."""
    spent_j: Mapping[str, float]
    """Device -> energy that it has spent."""
    trained: Mapping[str, Mapping[str, int]]
    """Device -> task -> rounds in which it has trained it."""


def decide(
    costs: RoundCosts,
    network: NetworkModel,
    plan: RoundPlan,
    ready_s: Mapping[str, float],
    devices: Devices,
    cooperating: Callable[[Sequence[DeviceOrder]], Cooperation],
) -> Decided:
    """The orders of a round as the network allows them.

    Args:
        costs: writes and plays scripts.
        network: the run's network.
        plan: of the round; its orders are without ways.
        ready_s: node -> virtual time at which it begins the round.
        devices: what they have and have spent.
        cooperating: orders -> the most that their devices may average.
    """
    out: dict[str, str] = {}
    while True:
        left = [order for order in plan.orders if order.device not in out]
        routed = _routed(costs, network, plan.round, left, devices.joined - out.keys(), devices)
        out |= {o.device: _no_way(network, plan.round, o.device) for o in left if o.device not in routed}
        going = [routed[order.device] for order in left if order.device in routed]
        moves = Moves({o.device: o.upward for o in going}, {}, {}, cooperating(going))
        script = costs.script(plan.round, going, moves, plan.first, devices.trained)
        played, _ = costs.play(plan.round, script, ready_s)
        late = _late(network, going, script, played, ready_s) | _empty(network, script, played, devices)
        if not late:
            break
        out |= late
    going = [o._replace(lost=_lost(network, script.lost[o.device])) if o.device in script.lost else o for o in going]
    reasons = [Decision(device, "sits out", why) for device, why in out.items()]
    arrivals = {device: played[index].end_s for device, index in script.delivered.items()}
    return Decided(tuple(going), (*reasons, *(d for order in going for d in _way_decisions(order, network))), arrivals)


def _routed(
    costs: RoundCosts,
    network: NetworkModel,
    round_number: int,
    orders: Sequence[DeviceOrder],
    awake: Collection[str],
    devices: Devices,
) -> dict[str, DeviceOrder]:
    """Orders with their ways; those without a way are left out."""
    d2d = network.network.d2d
    by_cell: dict[tuple[str, int], list[DeviceOrder]] = {}
    for order in orders:
        channel_of = round_number if order.begun is None else order.begun
        by_cell.setdefault((network.sites.access[order.device], channel_of), []).append(order)
    result: dict[str, DeviceOrder] = {}
    for (access, channel_of), some in by_cell.items():
        cell = Cell.of(network, channel_of, access, [d for d in network.sites.cells[access] if d in awake])
        relay = d2d is not None and d2d.relay
        ways = ways_up(cell, relay)
        if d2d is not None and d2d.heads:
            bits, worn = costs.update_bits(some), _worn(network, some, devices)
            ways = elect_heads(cell, ways, bits, costs.sum_bits(some), worn, relay)
        hearing = cell.down if relay else cell.hears
        reached = [order for order in some if order.device in ways and order.device in hearing]
        found = _sources(cell, reached, devices.having, d2d.share) if d2d is not None and d2d.relay else {}
        result |= {o.device: _on_its_way(o, ways[o.device], found.get(o.device, {})) for o in reached}
    return _with_heads(result)


def _sources(
    cell: Cell, orders: Sequence[DeviceOrder], having: Mapping[str, frozenset[str]], share: bool
) -> dict[str, dict[str, Source]]:
    """Device -> module -> whence it gets it, if not from the broadcast. Changes come before whole versions, so those
    who get the one may hand on the other."""
    found: dict[str, dict[str, Source]] = {}
    known: dict[tuple[frozenset[str], frozenset[str]], dict[str, Source]] = {}
    for module in dict.fromkeys(module for order in orders for module in order.fetched):
        has = having.get(module, frozenset())
        updating = frozenset(order.device for order in orders if module in order.changes)
        beginning = frozenset(order.device for order in orders if module in order.fetched) - updating
        for wanting in (updating, beginning):
            if wanting and (wanting, has) not in known:
                known[wanting, has] = handed_on(cell, wanting, has) if share else over_relays(cell, wanting)
            for device, source in known.get((wanting, has), {}).items():
                if source:
                    found.setdefault(device, {})[module] = source
            has |= wanting
    return found


def _on_its_way(order: DeviceOrder, way: Way, found: Mapping[str, Source]) -> DeviceOrder:
    return order._replace(relays=way.relays, head=way.head, sources=found)


def _with_heads(orders: dict[str, DeviceOrder]) -> dict[str, DeviceOrder]:
    heads = {order.head for order in orders.values()}
    return {device: o._replace(head=device) if device in heads else o for device, o in orders.items()}


def _worn(network: NetworkModel, orders: Sequence[DeviceOrder], devices: Devices) -> dict[str, float]:
    """How often each was a head, over the share of its charge that it has left."""
    worn = {}
    for order in orders:
        battery_j = network.battery_j(order.device)
        left = 1.0 if battery_j is None else max(1e-3, 1 - devices.spent_j.get(order.device, 0.0) / battery_j)
        worn[order.device] = devices.headed.get(order.device, 0) / left
    return worn


def _late(
    network: NetworkModel,
    orders: Sequence[DeviceOrder],
    script: Script,
    played: Sequence[Cost],
    ready_s: Mapping[str, float],
) -> dict[str, str]:
    """The later half of those who miss the deadline, a cell: without them the others may meet it."""
    deadline_s = network.network.deadline_s
    late: dict[str, list[tuple[float, str]]] = {}
    for order in orders:
        index = script.delivered.get(order.device)
        if deadline_s is None or index is None:
            continue
        after_s = played[index].end_s - ready_s.get(script.actions[index].home, 0.0)
        if after_s > deadline_s:
            late.setdefault(network.sites.access[order.device], []).append((after_s, order.device))
    return {
        device: f"its update would come after {after_s:.3g} s, network.deadline_s is {deadline_s:g}"
        for some in late.values()
        for after_s, device in sorted(some)[len(some) // 2 :]
    }


def _empty(network: NetworkModel, script: Script, played: Sequence[Cost], devices: Devices) -> dict[str, str]:
    """Those whose battery would not last for the round."""
    empty = {}
    for device, takes_j in spent(script, played).items():
        battery_j = network.battery_j(device) if device in network.sites.access else None
        if battery_j is None:
            continue
        left_j = battery_j - devices.spent_j.get(device, 0.0)
        if takes_j > left_j:
            takes = f"the round would take {takes_j:.3g} J"
            empty[device] = f"{takes}, its battery has {max(left_j, 0.0):.3g} J of {battery_j:g} J left"
    return empty


def _no_way(network: NetworkModel, round_number: int, device: str) -> str:
    access = network.sites.access[device]
    ends = ((device, access), (access, device))
    snrs = " and ".join(f"{10 * math.log10(network.snr(round_number, *pair)):.1f} dB" for pair in ends)
    others = "no other device that does is in reach" if network.network.d2d else "there is no network.d2d"
    least = f"network.radio.least_snr_db is {network.network.radio.least_snr_db:g}"
    return f"it does not reach {access} (signal to noise {snrs} up and down, {least}), and {others}"


def _lost(network: NetworkModel, link: str) -> str:
    return f"lost on its way from {link}: {network.network.radio.attempts} attempts in vain"


def _way_decisions(order: DeviceOrder, network: NetworkModel) -> list[Decision]:
    access = network.sites.access[order.device]
    from_others: dict[str, list[str]] = {}
    for module, source in order.sources.items():
        if source[-1] != access:
            from_others.setdefault(source[-1], []).append(module)
    found = [
        Decision(order.device, "is handed on", f"{', '.join(modules)} from {holder}: the cheapest that has it")
        for holder, modules in from_others.items()
    ]
    if not order.upward:
        return found
    over = f" over {', '.join(order.relays)}" if order.relays else ""
    if order.head not in (None, order.device):
        found.append(
            Decision(order.device, "is headed", f"{order.head} adds its update up{over}: less airtime for all")
        )
    elif order.relays:
        found.append(Decision(order.device, "is relayed", f"its update goes up{over}: the cheapest way"))
    if order.lost:
        found.append(Decision(order.device, "is lost", order.lost))
    return found
