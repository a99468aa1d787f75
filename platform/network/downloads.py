"""Whence devices get a module: heard from their access node, or handed on by the cheapest other device that has it."""

from __future__ import annotations

from collections.abc import Collection

from .routing import Cell

Source = tuple[str, ...]
"""Nodes over which a module comes, from the receiver's side; the last one has it. Empty for the broadcast."""


def over_relays(cell: Cell, wanting: Collection[str]) -> dict[str, Source]:
    """Where devices hand nothing on: all whom the access node reaches hear its broadcast, others get it over relays."""
    return {d: (*cell.down[d], cell.access) if cell.down[d] else () for d in wanting if d in cell.down}


def handed_on(cell: Cell, wanting: Collection[str], having: Collection[str]) -> dict[str, Source]:
    """Whence each device gets a module, where those who have it hand it on; devices out of reach are left out.

    Whoever sends is heard by all whose link is no worse than the one that it sends for. So of all further devices the
    one is served next that adds least: what its link costs from some sender, less what that sender's transmission costs
    already (broadcast incremental power: Wieselthier, Nguyen and Ephremides, INFOCOM 2000, section III). Where that
    greed comes dearer than the access node's sending to all, it does.

    Args:
        cell: the links.
        wanting: devices that are to get the module.
        having: other devices that have it already.
    """
    spends = dict.fromkeys((cell.access, *(device for device in sorted(having) if device in cell.links)), 0.0)
    found: dict[str, Source] = {}
    offers: dict[str, tuple[float, str]] = {}

    def offer(sender: str) -> None:
        for device, link in cell.links[sender].items():
            if device in wanting and device not in spends:
                added = max(0.0, link["cost"] - spends[sender])
                offers[device] = min(offers.get(device, (added, sender)), (added, sender))

    for sender in spends:
        offer(sender)
    while offers:
        device = min(offers, key=lambda device: (*offers[device], device))
        _, sender = offers.pop(device)
        found[device] = () if sender == cell.access else (sender,)
        spends[sender] = max(spends[sender], cell.links[sender][device]["cost"])
        spends[device] = 0.0
        offer(sender)
        offer(device)
    heard = [cell.links[cell.access][device]["cost"] for device in found if device in cell.hears]
    if len(heard) == len(found) and sum(spends.values()) > max(heard, default=0.0):
        found = dict.fromkeys(found, ())
    return over_relays(cell, [device for device in wanting if device not in found]) | found
