"""The actor around a device host: one process, one backbone, one device or many."""

from __future__ import annotations

import gc
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch

from fogtune.platform.aggregation import Update
from fogtune.platform.config import Config
from fogtune.platform.federation.cooperation import Cooperation
from fogtune.platform.federation.device_state import NOTHING, States
from fogtune.platform.federation.handing_on import HandedOn, Holders
from fogtune.platform.federation.host import DeviceHost
from fogtune.platform.federation.messages import DeviceOrder, EvaluationJob, HostPlan, Setup

from .columns import ByColumn
from .logs import log_as_actor
from .parts import Layout, Part, assembled
from .wire import share_tensors

log = logging.getLogger(__name__)

Whose = tuple[tuple[str, ...], ...]
"""Of which devices each of several states is."""


@dataclass(frozen=True)
class Training:
    """What a host is told of what it does in a round; all in one, as Ray packs each argument for itself."""

    plan: HostPlan
    addresses: Sequence[Collection[str]]
    """Who adds up at each of the addresses that sums go to."""
    digests: Mapping[tuple[str, str], str]
    """Of what devices hand on."""
    layout: Layout
    """Of the versions of the devices' parents."""
    parts: int
    """How many parts these have."""
    whose: Whose
    """Of which devices each of the states is."""


class HostActor:
    """Trains and evaluates its devices when told; in Ray's dashboard it reads as its name and what it hosts."""

    def __init__(self, name: str, config: Config, devices: int, run: str, machine: str | None = None) -> None:
        """Start; `load` makes it ready.

        Args:
            name: its own.
            config: the run's configuration.
            devices: of how many it is the home.
            run: the run's id.
            machine: its machine, where nodes are placed on machines.
        """
        self._machine = machine
        self._name = name
        self._config = config
        self._devices = devices
        self._host: DeviceHost
        share_tensors()
        log_as_actor(run, name)

    def __repr__(self) -> str:
        return self._name if self._devices == 1 else f"{self._name} ({self._devices} devices)"

    @ray.method
    def load(self, labels: Mapping[str, tuple[str, ...]] | None = None, initial: Part | None = None) -> None:
        """Load model and data; of devices' own folders those that lie on its machine.

        Args:
            labels: task -> label names, for who does not see all that there are.
            initial: version 0, if it lies anywhere yet.

        Raises:
            InputError: they cannot be used as configured.
        """
        # One thread a host: hosts are as many as processors, and float sums may depend on the number of threads.
        torch.set_num_threads(1)
        self._host = DeviceHost(self._config, self._machine, labels)
        if initial is not None:
            self._host.share(*initial.values())
        gc.freeze()  # a full collection would else go through all of torch, in the middle of a round

    @ray.method
    def share(self, initial: Part) -> None:
        """Have version 0 in the memory that the hosts of a machine share."""
        self._host.share(*initial.values())

    @ray.method
    def setup(self) -> Setup:
        """What the coordinator needs to know before round 1."""
        return self._host.setup()

    @ray.method
    def hand_on(self, holders: Holders, givers: tuple[str, ...], layout: Layout, *parts: Part) -> Any:
        """What devices hand on to others in a round, of their parents' versions.

        Returns:
            To be called with `num_returns=2`: nothing, as a sign of life, and the copies, which go from here to the
            receivers' hosts.
        """
        return None, self._host.hand_on(holders, assembled(layout, parts), givers)

    @ray.method
    def train(self, asked: Training, *given: Any) -> Any:
        """Train devices.

        Args:
            asked: what to do.
            given: the parts of the parents' versions; then states; then what hosts hand on.

        Returns:
            To be called with `num_returns=2 + len(asked.addresses)`: (reports, who now remembers something, seconds by
            device group), what they remember, then a bundle for each address, which goes there from here without
            passing the coordinator.
        """
        parts = asked.parts
        states = _of(asked.whose, given[parts:][: len(asked.whose)])
        copies = {key: tensors for some in given[parts + len(asked.whose) :] for key, tensors in some.items()}
        versions = assembled(asked.layout, given[:parts])
        reply = self._host.train(asked.plan, versions, states, HandedOn(copies, asked.digests))
        bundles = [{node: reply.updates[node] for node in nodes if node in reply.updates} for nodes in asked.addresses]
        failed = sum(report.error is not None for report in reply.reports)
        log.info("%d devices trained, %d failed", len(reply.reports), failed, extra={"round": asked.plan.round})
        remembered = {device: state for device, state in reply.states.items() if state != NOTHING}
        return ((ByColumn(reply.reports), frozenset(remembered), reply.spent), remembered, *bundles)

    @ray.method
    def begin(self, orders: tuple[DeviceOrder, ...], layout: Layout, parts: int, whose: Whose, *given: Any) -> Any:
        """Give devices what they start from; given are the parts of their parents' versions, then states.

        Returns:
            To be called with `num_returns=2`: nothing, as a sign of life, and what the devices remember now.
        """
        return None, self._host.begin(orders, assembled(layout, given[:parts]), _of(whose, given[parts:]))

    @ray.method
    def cooperate(self, found: Cooperation, devices: tuple[str, ...], whose: Whose, *states: States) -> Any:
        """Let devices average with their neighbours, by what all who take part remember.

        Returns:
            To be called with `num_returns=2`: disagreements, as `DeviceHost.cooperate` gives them, and what the devices
            remember now.
        """
        return self._host.cooperate(found, _of(whose, states), devices)

    @ray.method
    def add_up(self, round_number: int, head: str, parent: str, layout: Layout, parts: int, *given: Any) -> Any:
        """What a cluster head sends upward of what it was sent: bundles, given behind the parent's versions.

        Returns:
            To be called with `num_returns=2`: nothing, as a sign of life, and the sum, which goes from here to who adds
            it up.
        """
        total = sum((bundle[head] for bundle in given[parts:] if head in bundle), start=Update.empty())
        return None, self._host.head_update(round_number, head, total, assembled(layout, given[:parts])[parent])

    @ray.method
    def evaluate(
        self, jobs: tuple[EvaluationJob, ...], layout: Layout, whose: Whose, *given: Any
    ) -> dict[tuple[str, str], dict[str, int]]:
        """Exact metric sums of the jobs; given are the parts of nodes' versions, then states of variants."""
        parts = len(given) - len(whose)
        return self._host.evaluate(jobs, assembled(layout, given[:parts]), _of(whose, given[parts:]))


def _of(whose: Whose, states: Sequence[States]) -> States:
    """Of each of several states, those of some devices; what else is in one may be out of date."""
    return {device: some[device] for devices, some in zip(whose, states, strict=True) for device in devices}


Host = ray.remote(HostActor)
