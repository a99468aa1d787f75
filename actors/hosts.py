"""The actor around a device host: one process, one backbone, one device or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
import torch

from fogtune.platform.aggregation import Tensors, Update
from fogtune.platform.config import Config
from fogtune.platform.federation.cooperation import Cooperation
from fogtune.platform.federation.handing_on import HandedOn
from fogtune.platform.federation.host import DeviceHost, DeviceState
from fogtune.platform.federation.messages import DeviceReport, EvaluationJob, RoundPlan, Setup

Versions = dict[str, Tensors]


class HostActor:
    """Trains and evaluates its devices when told; in Ray's dashboard it reads as its name and what it hosts."""

    def __init__(self, name: str, config: Config, devices: Sequence[str]) -> None:
        self._name = name
        self._config = config
        self._devices = tuple(devices)
        self._host: DeviceHost

    def __repr__(self) -> str:
        count = len(self._devices)
        return self._name if count == 1 else f"{self._name} ({count} devices)"

    @ray.method
    def load(self) -> None:
        """Load model and data. Raises InputError where they cannot be used as configured."""
        # One thread a host: hosts are as many as processors, and float sums may depend on the number of threads.
        torch.set_num_threads(1)
        self._host = DeviceHost(self._config, self._devices)

    @ray.method
    def setup(self) -> Setup:
        """What the coordinator needs to know before round 1."""
        return self._host.setup()

    @ray.method
    def hand_on(self, plan: RoundPlan, parents: tuple[str, ...], *versions: Versions) -> Any:
        """What the devices here hand on to others in a round.

        Returns:
            To be called with `num_returns=2`: nothing, as a sign of life, and the copies, which go from here to the
            receivers' hosts.
        """
        return None, self._host.hand_on(plan, dict(zip(parents, versions, strict=True)))

    @ray.method
    def train(
        self,
        plan: RoundPlan,
        receivers: tuple[str, ...],
        digests: Mapping[tuple[str, str], str],
        parents: tuple[str, ...],
        *given: Any,
    ) -> Any:
        """Train this host's part of a plan.

        Args:
            plan: the round's plan.
            receivers: who adds up the updates of the devices here: their parents and cluster heads.
            digests: of what devices hand on.
            parents: aggregating nodes of the devices here.
            given: the modules' versions at each of them, in the same order; then what each host hands on.

        Returns:
            To be called with `num_returns=1 + len(receivers)`: the reports, then the devices' update for each receiver,
            which goes from here to the receiver's actor without passing the coordinator.
        """
        versions = dict(zip(parents, given, strict=False))
        copies = {key: tensors for some in given[len(parents) :] for key, tensors in some.items()}
        reply = self._host.train(plan, versions, HandedOn(copies, digests))
        updates = [reply.updates.get(receiver, Update.empty()) for receiver in receivers]
        reports: tuple[DeviceReport, ...] = reply.reports
        return (reports, *updates)

    @ray.method
    def take_back(self, devices: Sequence[str]) -> None:
        """Let devices here be as they were before they trained last."""
        self._host.take_back(devices)

    @ray.method
    def lend(self, found: Cooperation) -> dict[tuple[str, str], Tensors]:
        """What the devices here have of what neighbours average."""
        return self._host.lend(found)

    @ray.method
    def cooperate(self, found: Cooperation, *lent: dict[tuple[str, str], Tensors]) -> Any:
        """Let the devices here average with their neighbours, with what their hosts have lent."""
        return self._host.cooperate(found, {key: tensors for some in lent for key, tensors in some.items()})

    @ray.method
    def add_up(self, round_number: int, head: str, versions: Versions, *updates: Update) -> Update:
        """What a cluster head here sends upward of what its cluster and itself have."""
        return self._host.head_update(round_number, head, sum(updates, start=Update.empty()), versions)

    @ray.method
    def evaluate(
        self, jobs: tuple[EvaluationJob, ...], nodes: tuple[str, ...], *versions: Versions
    ) -> dict[tuple[str, str], dict[str, int]]:
        """Exact metric sums of the jobs, with the versions of these nodes."""
        return self._host.evaluate(jobs, dict(zip(nodes, versions, strict=True)))

    @ray.method
    def states(self) -> dict[str, DeviceState]:
        """What the devices here remember."""
        return self._host.states

    @ray.method
    def restore(self, states: dict[str, DeviceState]) -> None:
        """Let the devices here remember this instead."""
        self._host.states = {device: states[device] for device in self._devices}


Host = ray.remote(HostActor)
