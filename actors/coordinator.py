"""The coordinator actor: schedules rounds and routes modules; holds the cloud's state, and no module of anybody else.

A round, with who waits for whom:

    coordinator: plan ──versions (by reference)──► hosts train, pre-sum by fog node
    host: reports ──► coordinator;  sums ──► fog actor directly, added as they come
          of devices with a cluster head: sums ──► the head's host, added up there ──► fog actor
    coordinator, once all reports are in and the quorum is met: tier by tier from the bottom, close
    fog: sums that are due ──► parent actor or cloud; new versions go down the same way, by reference
    coordinator ──► hosts evaluate; exact sums come back

Where nothing stands against it, hosts are asked to train for the next round as soon as versions are made, behind what
they were asked to evaluate: they go on while the coordinator evaluates, reports and writes down the round before.

What devices remember lies in Ray's object store, as the hosts have left it, and spills to disk from there: a host keeps
nothing. One that dies is started again and asked again. If it dies too often in a round, or its machine is gone, its
devices' updates are lost, which the quorum judges, and they are as they were after the last round. If any other actor
dies, the round fails, and the run starts all of them again from its newest checkpoint.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray

from fogtune.platform.config import Config
from fogtune.platform.errors import RunFailed
from fogtune.platform.federation.accounting import Accountant, Sums
from fogtune.platform.federation.cohorts import cohorts, in_order, lost
from fogtune.platform.federation.cooperation import Cooperation, Disagreement
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.evaluating import evaluation_jobs
from fogtune.platform.federation.handing_on import holders_of
from fogtune.platform.federation.local_runner import RoundResult, failing_round
from fogtune.platform.federation.messages import DeviceReport, HostPlan, RoundPlan, Setup
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.learning.evaluation import add_tallies
from fogtune.platform.ownership import own
from fogtune.platform.topology_build import build_tree

from .answers import ActorDied, TimedOut, get
from .assignment import Assignment
from .columns import ByColumn
from .host_pool import Call, HostPool, devices_of
from .hosts import Training
from .logs import log_as_actor
from .metrics import RoundMetrics
from .nodes import Nodes
from .wire import share_tensors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """A round for which hosts are training."""

    plan: RoundPlan
    calls: list[Call]
    addresses: dict[str, tuple[str, ...]]
    """Host -> who is sent its bundles, in order."""
    asked: dict[str, list[str]]
    """Host -> devices that it trains."""
    beginning: list[Call]
    """Of devices that only get what they start from."""


class CoordinatorActor:
    """Wires the federation's actors and runs its rounds."""

    def __init__(self, config: Config, namespace: str) -> None:
        self._config = config
        self._namespace = namespace
        self._number = 0
        self._hosts: HostPool
        self._states: dict[str, Any] = {}
        """Device that remembers something -> reference to states, of which one is its."""
        self._assignment: Assignment
        self._setup: Setup
        self._coordinator: Coordinator
        self._accountant: Accountant
        self._nodes: Nodes
        self._begun: Begun | None = None
        """The next round."""
        self._metrics = RoundMetrics(namespace)
        self._since = 0.0
        """When the round under way began, or the one before it ended."""
        share_tensors()
        log_as_actor(namespace, "coordinator")

    def __repr__(self) -> str:
        return f"coordinator ({self._config.name})"

    @ray.method
    def start(self) -> Setup:
        """Start the hosts and the aggregating nodes; returns when all are loaded, without version 0.

        Raises:
            InputError: data or weights cannot be used as configured.
        """
        config = self._config
        tree = build_tree(config)
        self._hosts = HostPool(config, self._namespace, tree)
        groups = {device: tree[device].group or "" for device in tree.devices}
        pinned = config.execution.devices_per_actor != "auto"
        self._assignment = Assignment(self._hosts.home, groups, pinned)
        setup = self._hosts.load()
        self._nodes = Nodes(config, self._namespace, tree, own(config, tree), setup.initial)
        self._setup = replace(setup, initial=self._nodes.initial)
        self._hosts.share(self._nodes.version_0)
        gc.freeze()  # a full collection would else go through all of torch, in the middle of a round
        self._coordinator = Coordinator(config, self._setup)
        self._accountant = Accountant(self._coordinator)
        return replace(setup, initial={})

    @ray.method
    def round(self, number: int) -> RoundResult:
        """Run one round. Raises RunFailed: below quorum, or an actor has died."""
        self._number = number
        with failing_round(number):
            return self._round(number)

    def _round(self, number: int) -> RoundResult:
        coordinator = self._coordinator
        begun, self._begun = self._begun, None
        if begun is None or begun.plan.round != number:
            self._since = time.perf_counter()
            begun = self._begin(coordinator.plan(number))
        plan = begun.plan
        reports, receipts, states = self._trained(begun)
        coordinator.admit(plan, reports)
        self._nodes.get(receipts)
        self._hosts.revive(number)
        self._remember(reports, states)
        plan = self._have_begun(plan, begun.beginning)
        found = coordinator.cooperation(plan, reports)
        disagreement = self._cooperate(found)
        metrics, moved, changed, upward = self._nodes.close(plan, reports)
        coordinator.note_devices(plan, reports)
        adopted = coordinator.descend(plan.round, changed, plan.away)
        self._nodes.descend(adopted)
        evaluating = self._evaluate() if plan.evaluate else []
        booked = self._accountant.book(plan, reports, upward, adopted, found)
        coordinator.conclude(plan, booked.ready_s, booked.spent_j, moved)
        self._begin_next(number + 1)
        sums = self._sums(evaluating)
        wall_s, self._since = time.perf_counter() - self._since, time.perf_counter()
        record = self._accountant.record(plan, reports, metrics, booked, sums, disagreement, wall_s)
        self._metrics.tell(record, {host: len(begun.asked.get(host, ())) for host in self._hosts.machine})
        log.info("took %.2f s, %d took part", wall_s, record.participants, extra={"round": number})
        return RoundResult(record, booked.rows, coordinator.lost(plan, reports))

    def _have_begun(self, plan: RoundPlan, calls: list[Call]) -> RoundPlan:
        """The plan, but for those whose host has died before they could begin: they do so another time."""
        lost: set[str] = set()
        for call, answer in self._hosts.answers(calls, self._number):
            devices = [order.device for order in call.arguments[0]]
            if isinstance(answer, ActorDied):
                lost.update(devices)
            else:
                self._states |= dict.fromkeys(devices, call.refs[1])
        return replace(plan, beginning=tuple(order for order in plan.beginning if order.device not in lost))

    def _begin_next(self, number: int) -> None:
        """Have hosts train for the next round while this one is evaluated, told of, and written down.

        Not where nodes are given something first: what they have would not be what this round has left.
        """
        if number <= self._config.rounds:
            with suppress(RunFailed):  # who asks for that round is told
                plan = self._coordinator.plan(number)
                if not plan.first:
                    self._begun = self._begin(plan)

    @ray.method
    def snapshot(self) -> Snapshot:
        """The federation's whole state after the last round."""
        nodes = self._nodes.states()
        whose, refs = self._remembered(self._states)
        found = get(list(refs), self._number)
        states = {device: some[device] for devices, some in zip(whose, found, strict=True) for device in devices}
        return Snapshot(self._coordinator.state, nodes, states)

    @ray.method
    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot, whatever the packing was when it was taken."""
        self._begun = None
        self._coordinator.state = snapshot.coordinator
        self._states = dict.fromkeys(snapshot.devices, ray.put(dict(snapshot.devices)))
        self._nodes.get(self._nodes.restore(snapshot.nodes))

    def _remembered(self, devices: Iterable[str]) -> tuple[tuple[tuple[str, ...], ...], tuple[Any, ...]]:
        """Of those of these devices that remember something: who has its state behind each reference, and these."""
        whose: dict[Any, list[str]] = {}
        for device in devices:
            if device in self._states:
                whose.setdefault(self._states[device], []).append(device)
        return tuple(map(tuple, whose.values())), tuple(whose)

    def _remember(self, reports: Sequence[DeviceReport], states: Mapping[str, Any]) -> None:
        """Take note of what devices remember now; those whose updates are lost remember what they did before."""
        for report in reports:
            if report.error is None:
                self._states.pop(report.device, None)
                if report.device in states:
                    self._states[report.device] = states[report.device]

    def _hand_on(self, plan: RoundPlan) -> tuple[dict[tuple[str, str], str], dict[str, Any]]:
        """What devices hand on to others: digests as their parents give them, and host -> reference to its devices'
        copies. Those who wait for what a dead host has not given say so."""
        holders = holders_of(plan, self._coordinator.tree)
        known = self._nodes.digests(holders)
        calls = []
        givers = dict.fromkeys(d for of_node in holders.values() for devices in of_node.values() for d in devices)
        for host, some in devices_of(self._hosts.home, givers).items():
            nodes = [n for n, of_node in holders.items() if any(d in some for ds in of_node.values() for d in ds)]
            layout, parts = self._nodes.parts_of(nodes)
            calls.append(self._hosts.ask(host, "hand_on", holders, some, layout, *parts, returns=2))
        answers = self._hosts.answers(calls, plan.round)
        return known, {call.host: call.refs[1] for call, answer in answers if not isinstance(answer, ActorDied)}

    def _begin(self, plan: RoundPlan) -> Begun:
        """Ask all hosts to train."""
        self._nodes.begin(plan)
        tree = self._coordinator.tree
        groups = cohorts(self._coordinator.config, tree, plan, self._setup.cohort)
        devices = [[order.device for order in orders] for orders in groups]
        known, copies = self._hand_on(plan)
        calls: list[Call] = []
        addresses: dict[str, tuple[str, ...]] = {}
        asked: dict[str, list[str]] = {}
        for host, numbers in self._assignment.assign(devices, self._hosts.machine).items():
            orders = [order for number in numbers for order in groups[number]]
            parents = {order.device: tree[order.device].parent or "" for order in orders}
            layout, parts = self._nodes.parts_of(dict.fromkeys(parents.values()))
            slots = self._nodes.addresses(dict.fromkeys(order.receiver(parents[order.device]) for order in orders))
            instead = {receiver: node for some in slots.values() for receiver, node in some.items()}
            mine = HostPlan(plan.round, plan.personal, tuple(ByColumn(groups[number]) for number in numbers), instead)
            adding = [tuple(dict.fromkeys(some.values())) for some in slots.values()]
            whose, states = self._remembered(parents)
            sources = (source[-1] for order in orders for source in order.sources.values())
            givers = dict.fromkeys(self._hosts.home.get(source) for source in sources)
            given = (*parts, *states, *(copies[giver] for giver in givers if giver in copies))
            told = Training(mine, adding, known, layout, len(parts), whose)
            calls.append(self._hosts.ask(host, "train", told, *given, returns=2 + len(slots)))
            addresses[host], asked[host] = tuple(slots), list(parents)
        return Begun(plan, calls, addresses, asked, self._ask_to_begin(plan))

    def _ask_to_begin(self, plan: RoundPlan) -> list[Call]:
        """Have those devices get what they start from, whose updates come in a later round."""
        orders = {order.device: order for order in plan.beginning}
        calls = []
        for host, devices in devices_of(self._hosts.home, orders).items():
            nodes = dict.fromkeys(self._coordinator.tree[device].parent or "" for device in devices)
            layout, parts = self._nodes.parts_of(nodes)
            whose, states = self._remembered(devices)
            mine = tuple(orders[device] for device in devices)
            calls.append(self._hosts.ask(host, "begin", mine, layout, len(parts), whose, *parts, *states, returns=2))
        return calls

    def _trained(self, begun: Begun) -> tuple[list[DeviceReport], list[Any], dict[str, Any]]:
        """Wait for the hosts.

        Returns:
            The reports; the fog actors' receipts; device that has trained and remembers something -> reference to
            states with its.
        """
        plan = begun.plan
        reports = lost(plan)
        receipts: list[Any] = []
        remembered: dict[str, Any] = {}
        spent: list[Mapping[str, tuple[float, int]]] = []
        heads = {order.head for order in plan.orders}
        to_heads: dict[str, list[Any]] = {}
        for call, answer in self._hosts.answers(begun.calls, self._number):
            if isinstance(answer, ActorDied):
                reports += _lost_with(answer, begun.asked[call.host])
                continue
            some, remembering, seconds = answer
            reports += some
            spent.append(seconds)
            remembered |= dict.fromkeys(remembering, call.refs[1])
            for address, bundle in zip(begun.addresses[call.host], call.refs[2:], strict=True):
                if address in heads:
                    to_heads.setdefault(address, []).append(bundle)
                else:
                    receipts += self._nodes.deliver(address, bundle)
        begun.calls.clear()  # what has been delivered lies in Ray's memory no longer than whoever adds it up needs it
        self._assignment.measured(spent)
        failed = {report.device for report in reports if report.error is not None}
        delivering = {head: bundles for head, bundles in to_heads.items() if head not in failed}
        died, more = self._add_up(plan.round, delivering)
        reports = [died.get(report.device, report) for report in reports]
        return self._coordinator.heard(plan, in_order(plan, reports)), receipts + more, remembered

    def _add_up(self, round_number: int, bundles: Mapping[str, list[Any]]) -> tuple[dict[str, DeviceReport], list[Any]]:
        """Have cluster heads add up what they were sent, and send it upward.

        Returns:
            The reports of heads that have died at it; the fog actors' receipts.
        """
        tree = self._coordinator.tree
        calls = []
        for head, some in bundles.items():
            parent = tree[head].parent or ""
            layout, parts = self._nodes.parts_of([parent])
            arguments = (round_number, head, parent, layout, len(parts), *parts, *some)
            calls.append(self._hosts.ask(self._hosts.home[head], "add_up", *arguments, returns=2))
        died: dict[str, DeviceReport] = {}
        receipts: list[Any] = []
        for call, answer in self._hosts.answers(calls, round_number):
            _, head, parent = call.arguments[:3]
            if isinstance(answer, ActorDied):
                (died[head],) = _lost_with(answer, [head])
            else:
                receipts += self._nodes.add(parent, call.refs[1])
        return died, receipts

    def _cooperate(self, found: Cooperation) -> dict[str, Disagreement]:
        """Neighbours average what they keep."""
        if not found.groups:
            return {}
        served = devices_of(self._hosts.home, found.shared)
        whose, states = self._remembered(found.shared)
        found_ref = ray.put(found)
        calls = [
            self._hosts.ask(host, "cooperate", found_ref, devices, whose, *states, returns=2)
            for host, devices in served.items()
        ]
        told: dict[tuple[str, str], Disagreement] = {}
        for call, disagreements in self._hosts.all_answers(calls, self._number):
            told |= disagreements
            self._states |= dict.fromkeys(served[call.host], call.refs[1])
        return Disagreement.total(told)

    def _evaluate(self) -> list[Call]:
        """Ask all hosts that see the held-out data to evaluate on them."""
        tree = self._coordinator.tree
        calls = []
        ownership, hosts = self._coordinator.ownership, self._hosts.evaluating
        for host, jobs in evaluation_jobs(self._config, tree, ownership, self._setup, hosts, self._number).items():
            variants = dict.fromkeys(job.variant for job in jobs)
            nodes = dict.fromkeys((tree[v].parent or "") if tree.is_device(v) else v for v in variants)
            whose, states = self._remembered(variants)
            layout, parts = self._nodes.parts_of(nodes)
            calls.append(self._hosts.ask(host, "evaluate", jobs, layout, whose, *parts, *states))
        return calls

    def _sums(self, calls: Sequence[Call]) -> Sums:
        """Exact metric sums, added up over the hosts."""
        sums: dict[tuple[str, str], Mapping[str, int]] = {}
        for _, answer in self._hosts.all_answers(calls, self._number):
            for key, tally in answer.items():
                sums[key] = add_tallies(sums.get(key, {}), tally)
        return sums


def _lost_with(death: ActorDied, devices: Iterable[str]) -> list[DeviceReport]:
    """The reports of devices whose host has died."""
    failure = "time-out" if isinstance(death, TimedOut) else "crash"
    return [DeviceReport(device, f"its host {death.reason}", failure=failure) for device in devices]


CoordinatorRemote = ray.remote(CoordinatorActor)
