"""Runs a federation in this process, one cohort after the other: the same bits as on Ray, without a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from fogtune.platform.aggregation import SumOverflow, Update, UpdateRejected
from fogtune.platform.aggregation.tier import TierLogic
from fogtune.platform.config import Config
from fogtune.platform.errors import RunFailed
from fogtune.platform.run.record import RoundRecord
from fogtune.platform.run.rows import LedgerRows
from fogtune.platform.topology_build import build_tree

from .accounting import Accountant, Sums
from .cohorts import cohorts, in_order, lost
from .cooperation import Disagreement
from .coordinator import Coordinator
from .device_state import NOTHING, DeviceState
from .evaluating import evaluation_jobs
from .handing_on import HandedOn, digests, holders_of
from .host import DeviceHost
from .messages import HostPlan, Setup
from .snapshot import Snapshot
from .waiting import missed_by


@dataclass(frozen=True)
class RoundResult:
    """What a round leaves for the run's directory."""

    record: RoundRecord
    rows: LedgerRows
    lost: str | None
    """Which planned updates did not arrive and why, in one line."""


class Runner(Protocol):
    """Executes rounds somewhere. Made ready by its constructor; `close` gives back what it took."""

    setup: Setup

    def round(self, number: int) -> RoundResult:
        """Run one round, 1-based and in order.

        Raises RunFailed: below quorum, for instance. The runner is of no use then; its last snapshot is.
        """

    def snapshot(self) -> Snapshot:
        """The state after the last round."""

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot."""

    def close(self) -> None:
        """Stop what was started."""


@contextmanager
def failing_round(number: int) -> Iterator[None]:
    """Within the block, a sum that cannot be computed fails the round."""
    try:
        yield
    except (UpdateRejected, SumOverflow) as error:
        raise RunFailed(number, str(error)) from error


class LocalRunner:
    """One host with all devices, and every node of the tree, as plain objects."""

    def __init__(self, config: Config, on_stage: Callable[[str], None] = lambda _: None) -> None:
        on_stage("loading model and data")
        tree = build_tree(config)
        self._threads = torch.get_num_threads()
        # Float products may differ in the last bit between numbers of threads; one is what hosts use.
        torch.set_num_threads(1)
        try:
            self._host = DeviceHost(config)
        except BaseException:
            self.close()
            raise
        self.setup = self._host.setup()
        self._coordinator = Coordinator(config, self.setup)
        self._accountant = Accountant(self._coordinator)
        ownership = self._coordinator.ownership
        self._logic = {node: TierLogic(config, tree, ownership, node) for node in tree.aggregators}
        self._states = {node: logic.initial(self.setup.initial) for node, logic in self._logic.items()}
        self._devices: dict[str, DeviceState] = {}

    def round(self, number: int) -> RoundResult:
        with failing_round(number):
            return self._round(number)

    def _round(self, number: int) -> RoundResult:
        started = time.perf_counter()
        coordinator, tree = self._coordinator, self._coordinator.tree
        plan = coordinator.plan(number)
        for node, modules in plan.first.items():
            above = self._states[tree[node].parent or ""].versions
            self._states[node] = self._logic[node].receive(self._states[node], {m: above[m] for m in modules})
        versions = {node: state.versions for node, state in self._states.items()}
        holders = holders_of(plan, tree)
        known: dict[tuple[str, str], str] = {}
        for node, held in holders.items():
            known |= digests(node, versions[node], held)
        handed = HandedOn(self._host.hand_on(holders, versions, tree.devices), known)
        groups = cohorts(coordinator.config, tree, plan, self.setup.cohort)
        orders = HostPlan(number, plan.personal, tuple(groups))
        reply = self._host.train(orders, versions, self._devices, handed)
        begun = self._host.begin(plan.beginning, versions, self._devices)
        reports = coordinator.heard(plan, in_order(plan, [*reply.reports, *lost(plan)]))
        coordinator.admit(plan, reports)
        remembered = begun | {r.device: reply.states[r.device] for r in reports if r.error is None}
        self._devices = {d: state for d, state in (self._devices | remembered).items() if state != NOTHING}
        found = coordinator.cooperation(plan, reports)
        told, mixed = self._host.cooperate(found, self._devices, tree.devices)
        self._devices |= mixed
        disagreement = Disagreement.total(told)
        delivering = {report.device for report in reports if report.error is None}
        arriving = self._arriving(number, reply.updates, delivering)
        changed, upward = {}, {}
        metrics: Mapping[str, int] = {}
        moved: Mapping[str, float] = {}
        for node in tree.aggregators:
            tier, parent = tree[node].tier, tree[node].parent
            stay = [module for module in self._logic[node].modules if plan.stays(module, node, tier)]
            above = self._states[parent].versions if parent else {}
            missed = missed_by(coordinator.config, tree, node, plan.behind.get(node, {}), above)
            update = arriving.get(node, Update.empty())
            step = self._logic[node].step(self._states[node], number, update, stay, missed)
            self._states[node], changed[node] = step.state, step.changed
            upward[node] = tuple(step.upward.modules)
            metrics, moved = step.upward.metrics, step.moved
            if parent is not None:
                arriving[parent] = arriving.get(parent, Update.empty()) + step.upward
        coordinator.note_devices(plan, reports)
        adopted = coordinator.descend(number, changed, plan.away)
        for node, modules in adopted.items():
            above = self._states[tree[node].parent or ""].versions
            self._states[node] = self._logic[node].adopt(self._states[node], number, {m: above[m] for m in modules})
        sums = self._evaluate(number) if plan.evaluate else {}
        booked = self._accountant.book(plan, reports, upward, adopted, found)
        wall_s = time.perf_counter() - started
        coordinator.conclude(plan, booked.ready_s, booked.spent_j, moved)
        record = self._accountant.record(plan, reports, metrics, booked, sums, disagreement, wall_s)
        return RoundResult(record, booked.rows, coordinator.lost(plan, reports))

    def _arriving(self, number: int, updates: Mapping[str, Update], delivering: Collection[str]) -> dict[str, Update]:
        """Node -> the sum of what its devices and cluster heads send it."""
        tree = self._coordinator.tree
        arriving: dict[str, Update] = {}
        for receiver, update in updates.items():
            if tree.is_device(receiver):
                if receiver not in delivering:
                    continue
                parent = tree[receiver].parent or ""
                update = self._host.head_update(number, receiver, update, self._states[parent].versions)
                receiver = parent
            arriving[receiver] = arriving.get(receiver, Update.empty()) + update
        return arriving

    def _evaluate(self, number: int) -> Sums:
        """Exact metric sums of all tasks' held-out data."""
        coordinator, hosts = self._coordinator, {"local": self._coordinator.tree.devices}
        spread = evaluation_jobs(coordinator.config, coordinator.tree, coordinator.ownership, self.setup, hosts, number)
        versions = {node: state.versions for node, state in self._states.items()}
        return self._host.evaluate(spread["local"], versions, self._devices)

    def snapshot(self) -> Snapshot:
        return Snapshot(self._coordinator.state.copy(), dict(self._states), dict(self._devices))

    def restore(self, snapshot: Snapshot) -> None:
        self._coordinator.state = snapshot.coordinator.copy()
        self._states = dict(snapshot.nodes)
        self._devices = dict(snapshot.devices)

    def close(self) -> None:
        torch.set_num_threads(self._threads)
