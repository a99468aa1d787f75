"""Topology and population: the tree of nodes, and the groups of devices at its leaves."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .base import Name, Section


class DeviceGroup(Section):
    """Devices of one kind: they collect the same modalities and execute the same tasks."""

    name: Name
    """Devices of the group are called `<name>-0`, `<name>-1`, ..."""
    count: int = Field(ge=1)
    """Number of devices."""
    modalities: tuple[Name, ...] = Field(min_length=1)
    """Modalities that the devices collect (`text`, `image`, `imu`, ...)."""
    tasks: tuple[Name, ...] = Field(min_length=1)
    """Tasks that the devices execute; each needs at least one of its inputs among `modalities`."""
    device_class: Name = "phone"
    """What the devices compute and send with, of `network.classes`; without a network it has no meaning."""
    joins: int = Field(default=1, ge=1)
    """Round from which the devices take part. They then fetch the modules that they lack, as does their fog node."""


class Tier(Section):
    """A tier of aggregating nodes between the cloud and the devices."""

    name: Name
    """Name of the tier; its nodes are called `<name>-0`, `<name>-1`, ..."""
    count: int = Field(ge=1)
    """Number of nodes in this tier."""


class CountedTopology(Section):
    """A tree by count: the nodes of each tier are dealt to the tier above in turn, devices to the lowest tier."""

    kind: Literal["counted"] = "counted"
    """By count."""
    tiers: tuple[Tier, ...] = (Tier(name="fog", count=4),)
    """Tiers below the cloud, from the top down; empty for a star (devices directly under the cloud)."""


class ListedTopology(Section):
    """A tree written out: nested mappings of node names, with a list of devices under each node of the lowest tier."""

    kind: Literal["listed"]
    """Written out."""
    tier_names: tuple[Name, ...] = ("fog",)
    """Names of the tiers below the cloud, from the top down; as many as `tree` is deep."""
    tree: dict[Name, Any] = Field(min_length=1)
    """For two tiers: `{north: {fog-a: [camera-0, watch-0], fog-b: [camera-1]}}`. Every device stands in it once."""


class PlacedTopology(Section):
    """A tree by position: lowest-tier nodes are placed at random in a square, devices around them, all attach to the
    nearest node of the tier above."""

    kind: Literal["placed"]
    """By position."""
    tiers: tuple[Tier, ...] = Field(default=(Tier(name="fog", count=4),), min_length=1)
    """Tiers below the cloud, from the top down."""
    side_m: float = Field(default=5000.0, gt=0)
    """Side of the square, metres; the cloud is at its centre."""
    separation_m: float = Field(default=500.0, ge=0)
    """Least distance between two nodes of one aggregating tier, metres."""
    radius_m: float = Field(default=1000.0, gt=0)
    """Devices are placed uniformly in a disc of this radius around a lowest-tier node (dealt in turn), metres."""


Topology = Annotated[CountedTopology | ListedTopology | PlacedTopology, Field(discriminator="kind")]
