"""The coordinator actor: schedules rounds and routes modules; holds the cloud's state, and no module of anybody else.

A round, with who waits for whom:

    coordinator: plan ──versions (by reference)──► hosts train, pre-sum by fog node
    host: reports ──► coordinator;  sums ──► fog actor directly, added as they come
          of devices with a cluster head: sums ──► the head's host, added up there ──► fog actor
    coordinator, once all reports are in and the quorum is met: tier by tier from the bottom, close
    fog: sums that are due ──► parent actor or cloud; new versions go down the same way, by reference
    coordinator ──► hosts evaluate; exact sums come back

One round is under way at a time, so at most one update a host and fog node is in flight.

A host that dies while it trains loses its devices' updates, which the quorum judges. If the round goes on, the host is
started again, with its devices as they were after the last round. If any other actor dies, the run fails.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray

from fogtune.platform.config import Config
from fogtune.platform.federation.accounting import Accountant, Sums
from fogtune.platform.federation.cooperation import Cooperation, Disagreement
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.evaluating import evaluation_jobs
from fogtune.platform.federation.handing_on import holders_of
from fogtune.platform.federation.host import DeviceState
from fogtune.platform.federation.local_runner import RoundResult, failing_round
from fogtune.platform.federation.messages import DeviceReport, RoundPlan, Setup
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.learning.evaluation import add_tallies
from fogtune.platform.topology_build import build_tree

from .answers import ActorDied, get
from .hosts import Host
from .nodes import Nodes
from .packing import pack


class CoordinatorActor:
    """Wires the federation's actors and runs its rounds."""

    def __init__(self, config: Config, namespace: str) -> None:
        self._config = config
        self._namespace = namespace
        self._number = 0
        self._hosts: dict[str, Any] = {}
        self._devices: dict[str, tuple[str, ...]] = {}
        self._home: dict[str, str] = {}
        """Device -> its host."""
        self._remembered: dict[str, Any] = {}
        """Host -> reference to what its devices remembered after the last round."""
        self._setup: Setup
        self._coordinator: Coordinator
        self._accountant: Accountant
        self._nodes: Nodes

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
        self._home = {device: host.name for host in packed for device in host.devices}
        share = min(1.0, int(1e4 * processors / len(packed)) / 1e4)  # Ray counts in ten-thousandths
        self._hosts = {host.name: self._host(host.name, share) for host in packed}
        self._get([host.load.remote() for host in self._hosts.values()])
        self._setup = self._get(next(iter(self._hosts.values())).setup.remote())
        self._coordinator = Coordinator(config, self._setup)
        self._accountant = Accountant(self._coordinator)
        self._nodes = Nodes(config, self._namespace, tree, self._coordinator.ownership, self._setup.initial)
        return self._setup

    @ray.method
    def round(self, number: int) -> RoundResult:
        """Run one round. Raises RunFailed: below quorum, or an actor has died."""
        self._number = number
        with failing_round(number):
            return self._round(number)

    def _round(self, number: int) -> RoundResult:
        started = time.perf_counter()
        coordinator = self._coordinator
        plan = coordinator.plan(number)
        self._nodes.begin(plan)
        reports, receipts, dead = self._train(plan)
        coordinator.admit(plan, reports)
        self._get(receipts)
        self._revive(dead)
        found = coordinator.cooperation(plan, reports)
        disagreement = self._cooperate(found)
        step, changed, upward = self._nodes.close(plan)
        coordinator.note_devices(plan, reports)
        adopted = coordinator.descend(number, changed)
        self._nodes.descend(adopted)
        sums = self._evaluate() if plan.evaluate else {}
        booked = self._accountant.book(plan, reports, upward, adopted, found)
        wall_s = time.perf_counter() - started
        coordinator.conclude(plan, booked.ready_s, booked.spent_j, step.moved)
        record = self._accountant.record(plan, reports, step.upward, booked, sums, disagreement, wall_s)
        return RoundResult(record, booked.rows, coordinator.lost(plan, reports))

    @ray.method
    def snapshot(self) -> Snapshot:
        """The federation's whole state after the last round."""
        self._remembered = {name: host.states.remote() for name, host in self._hosts.items()}
        nodes = self._nodes.states()
        devices: dict[str, DeviceState] = {}
        for held in self._get(list(self._remembered.values())):
            devices |= held
        return Snapshot(self._coordinator.state, nodes, devices)

    @ray.method
    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot, whatever the packing was when it was taken."""
        self._coordinator.state = snapshot.coordinator
        self._remembered = dict.fromkeys(self._hosts, ray.put(dict(snapshot.devices)))
        self._get(
            self._nodes.restore(snapshot.nodes)
            + [host.restore.remote(self._remembered[name]) for name, host in self._hosts.items()]
        )

    def _host(self, name: str, num_cpus: float) -> Any:
        """Start a host's process."""
        options = Host.options(name=name, namespace=self._namespace, num_cpus=num_cpus)
        return options.remote(name, self._config, self._devices[name])

    def _revive(self, dead: Sequence[str]) -> None:
        """Start dead hosts again."""
        for name in dead:
            ray.kill(self._hosts[name])  # it may only have been out of reach
            with suppress(ValueError):  # until Ray has forgotten the name
                while ray.get_actor(name, self._namespace):
                    time.sleep(0.05)
            # Without a claim: its share of processors may have gone with its machine, and it would wait for ever.
            self._hosts[name] = self._host(name, 0)
        self._get([self._hosts[name].load.remote() for name in dead])
        known = [name for name in dead if name in self._remembered]
        self._get([self._hosts[name].restore.remote(self._remembered[name]) for name in known])

    def _hand_on(self, plan: RoundPlan, plan_ref: Any) -> tuple[dict[tuple[str, str], str], dict[str, Any], list[str]]:
        """What devices hand on to others: digests as their parents give them, host -> reference to the copies of its
        devices, and the hosts that died."""
        holders = holders_of(plan, self._coordinator.tree)
        known = self._nodes.digests(holders)
        homes: dict[str, dict[str, None]] = {}
        for node, of_node in holders.items():
            for device in (device for devices in of_node.values() for device in devices):
                homes.setdefault(self._home[device], {})[node] = None
        lent = {
            name: self._hosts[name]
            .hand_on.options(num_returns=2)
            .remote(plan_ref, tuple(nodes), *(self._nodes.versions(node) for node in nodes))
            for name, nodes in homes.items()
        }
        dead = []
        for name, (alive, _) in lent.items():
            try:
                get(alive, self._number, name)
            except ActorDied:  # those who wait for its copies say so
                dead.append(name)
        return known, {name: copies for name, (_, copies) in lent.items() if name not in dead}, dead

    def _train(self, plan: RoundPlan) -> tuple[list[DeviceReport], list[Any], list[str]]:
        """Have all hosts train. Returns the reports, the fog actors' receipts, and the hosts that died."""
        tree = self._coordinator.tree
        receivers_of = {order.device: order.receiver(tree[order.device].parent or "") for order in plan.orders}
        sources_of = {order.device: order.sources for order in plan.orders}
        waiting: dict[Any, tuple[str, tuple[str, ...], list[Any]]] = {}
        plan_ref = ray.put(plan)
        known, copies, dead = self._hand_on(plan, plan_ref)
        for name, host in self._hosts.items():
            devices = [device for device in self._devices[name] if device in receivers_of]
            if not devices:
                continue
            parents = tuple(dict.fromkeys(tree[device].parent or "" for device in devices))
            receivers = tuple(dict.fromkeys(receivers_of[device] for device in devices))
            homes = [self._home.get(source[-1]) for device in devices for source in sources_of[device].values()]
            given = (copies[home] for home in dict.fromkeys(homes) if home in copies)
            refs = host.train.options(num_returns=1 + len(receivers)).remote(
                plan_ref, receivers, known, parents, *(self._nodes.versions(parent) for parent in parents), *given
            )
            waiting[refs[0]] = (name, receivers, refs[1:])
        reports: list[DeviceReport] = []
        receipts: list[Any] = []
        to_heads: dict[str, list[Any]] = {}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            name, receivers, updates = waiting.pop(done)
            try:
                reports += get(done, self._number, name)
            except ActorDied as error:
                dead += [name] if name not in dead else []
                reports += [
                    DeviceReport(d, f"its host {error.reason}") for d in self._devices[name] if d in receivers_of
                ]
                continue
            for receiver, update in zip(receivers, updates, strict=True):
                if tree.is_device(receiver):
                    to_heads.setdefault(receiver, []).append(update)
                else:
                    receipts += self._nodes.add(receiver, update)
        heard = self._coordinator.heard(plan, reports)
        unheard = tuple(report.device for report, told in zip(heard, reports, strict=True) if report != told)
        if unheard:
            self._get([self._hosts[name].take_back.remote(unheard) for name in {self._home[d] for d in unheard}])
        reports = heard
        delivering = {report.device for report in reports if report.error is None}
        for head, updates in to_heads.items():
            if head in delivering:
                parent = tree[head].parent or ""
                host = self._hosts[self._home[head]]
                total = host.add_up.remote(plan.round, head, self._nodes.versions(parent), *updates)
                receipts += self._nodes.add(parent, total)
        position = {order.device: i for i, order in enumerate(plan.orders)}
        reports.sort(key=lambda report: position[report.device])
        return reports, receipts, dead

    def _cooperate(self, found: Cooperation) -> dict[str, Disagreement]:
        """Neighbours average what they keep; hosts give it to each other by reference."""
        homes = [self._hosts[name] for name in dict.fromkeys(self._home[device] for device in found.shared)]
        found_ref = ray.put(found)
        lent = [host.lend.remote(found_ref) for host in homes]
        told: dict[tuple[str, str], Disagreement] = {}
        for answer in self._get([host.cooperate.remote(found_ref, *lent) for host in homes]):
            told |= answer
        return Disagreement.total(told)

    def _evaluate(self) -> Sums:
        """Exact metric sums of all tasks' held-out data, added up over the hosts."""
        tree = self._coordinator.tree
        answers = []
        spread = evaluation_jobs(
            self._config, tree, self._coordinator.ownership, self._setup, self._devices, self._number
        )
        for name, jobs in spread.items():
            mine = set(self._devices[name])
            variants = [job.variant for job in jobs]
            nodes = tuple(dict.fromkeys((tree[v].parent or "") if v in mine else v for v in variants))
            answers.append(
                self._hosts[name].evaluate.remote(jobs, nodes, *(self._nodes.versions(node) for node in nodes))
            )
        sums: dict[tuple[str, str], Mapping[str, int]] = {}
        for answer in self._get(answers):
            for key, tally in answer.items():
                sums[key] = add_tallies(sums.get(key, {}), tally)
        return sums

    def _get(self, refs: Any) -> Any:
        return get(refs, self._number)


CoordinatorRemote = ray.remote(CoordinatorActor)
