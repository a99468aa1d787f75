"""The coordinator actor: schedules rounds and routes modules; holds the cloud's state, and no module of anybody else.

A round, with who waits for whom:

    coordinator: plan ──versions (by reference)──► hosts train, pre-sum by fog node
    host: reports ──► coordinator;  sums ──► fog actor directly, added as they come
    coordinator, once all reports are in and the quorum is met: tier by tier from the bottom, close
    fog: sums that are due ──► parent actor or cloud; new versions go down the same way, by reference
    coordinator ──► hosts evaluate; exact sums come back

One round is under way at a time, so at most one update a host and fog node is in flight.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from fogtune.platform.aggregation import Update
from fogtune.platform.aggregation.tier import TierLogic, TierState
from fogtune.platform.config import Config
from fogtune.platform.errors import FogTuneError, RunFailed
from fogtune.platform.federation.accounting import Accountant, Sums
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.host import DeviceState
from fogtune.platform.federation.local_runner import RoundResult
from fogtune.platform.federation.messages import DeviceReport, RoundPlan, Setup
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.learning.evaluation import add_tallies
from fogtune.platform.topology import CLOUD
from fogtune.platform.topology_build import build_tree

from .aggregators import Aggregator
from .hosts import Host
from .packing import actor_name, pack


class CoordinatorActor:
    """Wires the federation's actors and runs its rounds."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._hosts: dict[str, Any] = {}
        self._nodes: dict[str, Any] = {}
        self._devices: dict[str, tuple[str, ...]] = {}
        self._arrived = Update.empty()
        self._setup: Setup
        self._coordinator: Coordinator
        self._accountant: Accountant
        self._cloud: TierLogic
        self._cloud_state: TierState

    def __repr__(self) -> str:
        return f"coordinator ({self._config.name})"

    @ray.method
    def start(self) -> Setup:
        """Start the hosts and the aggregating nodes; returns when all are loaded.

        Raises:
            InputError: data or weights cannot be used as configured.
        """
        config = self._config
        tree = build_tree(config)
        processors = max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        per_actor = config.execution.devices_per_actor
        hosts = processors if per_actor == "auto" else -(-len(tree.devices) // per_actor)
        packed = pack(tree, hosts)
        self._devices = {host.name: host.devices for host in packed}
        share = min(1.0, int(1e4 * processors / len(packed)) / 1e4)  # Ray counts processors in ten-thousandths
        self._hosts = {
            host.name: Host.options(name=host.name, num_cpus=share).remote(host.name, config, host.devices)
            for host in packed
        }
        _get([host.load.remote() for host in self._hosts.values()])
        self._setup = _get(next(iter(self._hosts.values())).setup.remote())
        self._coordinator = Coordinator(config, self._setup)
        self._accountant = Accountant(self._coordinator)
        self._cloud = TierLogic(config, tree, self._coordinator.ownership, CLOUD)
        self._cloud_state = self._cloud.initial(self._setup.initial)
        initial = ray.put(self._setup.initial)
        self._nodes = {
            node: Aggregator.options(name=actor_name(tree, node), num_cpus=0).remote(
                actor_name(tree, node), config, node, initial
            )
            for node in tree.aggregators
            if node != CLOUD
        }
        return self._setup

    @ray.method
    def round(self, number: int) -> RoundResult:
        """Run one round. Raises RunFailed below quorum, with the state as before the round."""
        started = time.perf_counter()
        coordinator, tree = self._coordinator, self._coordinator.tree
        plan = coordinator.plan(number)
        _get([node.begin.remote() for node in self._nodes.values()])
        reports, arrived = self._train(plan)
        coordinator.admit(plan, reports)
        try:
            _get([added for added in arrived if added is not None])
            total, changed, upward = self._close(number)
        except FogTuneError as error:
            raise RunFailed(number, str(error)) from error
        coordinator.note_devices(plan, reports)
        adopted = coordinator.descend(number, changed)
        for node, modules in adopted.items():
            if modules:
                self._nodes[node].adopt.remote(modules, self._versions(tree[node].parent or ""))
        sums = self._evaluate() if plan.evaluate else {}
        rows = self._accountant.rows(plan, reports, upward, adopted)
        wall_s = time.perf_counter() - started
        coordinator.state.round = number
        return RoundResult(self._accountant.record(plan, reports, total, rows, sums, wall_s), rows)

    @ray.method
    def snapshot(self) -> Snapshot:
        """The federation's whole state after the last round."""
        states = _get([node.state.remote() for node in self._nodes.values()])
        nodes = {CLOUD: self._cloud_state, **dict(zip(self._nodes, states, strict=True))}
        devices: dict[str, DeviceState] = {}
        for held in _get([host.states.remote() for host in self._hosts.values()]):
            devices |= held
        return Snapshot(self._coordinator.state, nodes, devices)

    @ray.method
    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot, whatever the packing was when it was taken."""
        self._coordinator.state = snapshot.coordinator
        self._cloud_state = snapshot.nodes[CLOUD]
        devices = ray.put(dict(snapshot.devices))
        _get(
            [node.restore.remote(snapshot.nodes[name]) for name, node in self._nodes.items()]
            + [host.restore.remote(devices) for host in self._hosts.values()]
        )

    def _train(self, plan: RoundPlan) -> tuple[list[DeviceReport], list[Any]]:
        """Have all hosts train. Returns the reports, and the fog actors' receipts."""
        tree = self._coordinator.tree
        ordered = {order.device for order in plan.orders}
        versions: dict[str, Any] = {}
        waiting: dict[Any, tuple[str, tuple[str, ...], list[Any]]] = {}
        plan_ref = ray.put(plan)
        for name, host in self._hosts.items():
            devices = [device for device in self._devices[name] if device in ordered]
            if not devices:
                continue
            parents = tuple(dict.fromkeys(tree[device].parent or "" for device in devices))
            for parent in parents:
                versions.setdefault(parent, self._versions(parent))
            refs = host.train.options(num_returns=1 + len(parents)).remote(
                plan_ref, parents, *(versions[parent] for parent in parents)
            )
            waiting[refs[0]] = (name, parents, refs[1:])
        reports: list[DeviceReport] = []
        receipts: list[Any] = []
        self._arrived = Update.empty()
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            name, parents, updates = waiting.pop(done)
            try:
                reports += _get(done)
            except RayActorError as error:
                reason = f"host {name} died: {' '.join(str(error).split())[:200]}"
                reports += [DeviceReport(d, reason) for d in self._devices[name] if d in ordered]
                continue
            for parent, update in zip(parents, updates, strict=True):
                receipts.append(self._add(parent, update))
        reports.sort(key=lambda report: tree.devices.index(report.device))
        return reports, receipts

    def _add(self, node: str, update: Any) -> Any:
        """Give an update (by reference) to a node; a receipt, unless the node is the cloud."""
        if node != CLOUD:
            return self._nodes[node].add.remote(update)
        self._arrived = self._arrived + _get(update)
        return None

    def _close(self, number: int) -> tuple[Update, dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
        """Close the round tier by tier. Returns what is left at the cloud, new versions, and what went upward."""
        tree = self._coordinator.tree
        changed: dict[str, tuple[str, ...]] = {}
        upward: dict[str, tuple[str, ...]] = {}
        for tier in tree.tiers[-2:0:-1]:
            told = {}
            receipts = []
            for node in (n for n in tree.aggregators if tree[n].tier == tier):
                update, told[node] = self._nodes[node].close.options(num_returns=2).remote(number)
                receipts.append(self._add(tree[node].parent or "", update))
            _get([receipt for receipt in receipts if receipt is not None])
            for node, (sent, made) in zip(told, _get(list(told.values())), strict=True):
                upward[node], changed[node] = sent, made
        step = self._cloud.step(self._cloud_state, number, self._arrived)
        self._cloud_state, changed[CLOUD] = step.state, step.changed
        return step.upward, changed, upward

    def _evaluate(self) -> Sums:
        """Exact metric sums of all tasks' held-out data, added up over the hosts."""
        tree = self._coordinator.tree
        jobs = self._coordinator.evaluation_jobs(self._devices)
        versions: dict[str, Any] = {}
        answers = []
        for name, mine in jobs.items():
            devices = set(self._devices[name])
            nodes = tuple({(tree[j.variant].parent or "") if j.variant in devices else j.variant: None for j in mine})
            for node in nodes:
                versions.setdefault(node, self._versions(node))
            answers.append(self._hosts[name].evaluate.remote(mine, nodes, *(versions[node] for node in nodes)))
        sums: dict[tuple[str, str], Mapping[str, int]] = {}
        for answer in _get(answers):
            for key, tally in answer.items():
                sums[key] = add_tallies(sums.get(key, {}), tally)
        return sums

    def _versions(self, node: str) -> Any:
        """Reference to a node's versions, put into the object store once a call."""
        return ray.put(dict(self._cloud_state.versions)) if node == CLOUD else self._nodes[node].versions.remote()


CoordinatorRemote = ray.remote(CoordinatorActor)


def _get(refs: Any) -> Any:
    """`ray.get`, with FogTune's own errors raised as themselves."""
    try:
        return ray.get(refs)
    except RayTaskError as error:
        if isinstance(error.cause, FogTuneError):
            raise error.cause from None
        raise
