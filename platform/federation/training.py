"""What a host does with a cohort: train its devices together, and add up what they send."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fogtune.platform.aggregation import (
    HeldUpdates,
    ModuleSum,
    RowsRejected,
    Tensors,
    Update,
    UpdateRejected,
    fixed,
    is_control,
)
from fogtune.platform.config import Median, Scaffold, TrimmedMean
from fogtune.platform.errors import FogTuneError, InputError
from fogtune.platform.learning.evaluation import evaluate
from fogtune.platform.learning.local import Trained, train
from fogtune.platform.learning.pupil import Member
from fogtune.platform.learning.stack import Stack
from fogtune.platform.learning.workbench import Workbench

from .device_state import NOTHING, DeviceState, States
from .messages import DeviceOrder, DeviceReport, HostPlan
from .sending import Sending, prepare
from .waiting import missed_by

log = logging.getLogger(__name__)

Starts = Mapping[str, Mapping[str, Tensors]]
"""Device -> module -> the version that it starts from."""
Versions = Mapping[str, Mapping[str, Tensors]]
"""Parent of devices -> module -> its newest version."""


@dataclass
class Outcome:
    """What has become of some orders."""

    updates: dict[str, Update] = field(default_factory=dict)
    """Who adds up -> the sum of what the devices send it."""
    reports: list[DeviceReport] = field(default_factory=list)
    states: dict[str, DeviceState] = field(default_factory=dict)
    """Of the devices that have trained."""

    def add(self, receiver: str, update: Update) -> None:
        """Add to what somebody is sent. The update is given away: it may be what others are added to."""
        if receiver in self.updates:
            self.updates[receiver] += update
        else:
            self.updates[receiver] = update

    def take(self, other: Outcome) -> None:
        """Add another's."""
        for receiver, update in other.updates.items():
            self.add(receiver, update)
        self.reports += other.reports
        self.states |= other.states


def train_cohort(
    bench: Workbench,
    plan: HostPlan,
    orders: Sequence[DeviceOrder],
    starts: Starts,
    states: States,
    versions: Versions,
) -> Outcome:
    """Train devices together. Where that fails, each trains alone, so that only those fail who are at fault.

    Args:
        bench: the process's model and data.
        plan: what the host does in the round.
        orders: the cohort's.
        starts: of its devices.
        states: of its devices.
        versions: of its devices' parents.

    Raises:
        InputError: the run as configured cannot work.
    """
    members = [
        Member(order.device, starts[order.device], order.experts, states.get(order.device, NOTHING).controls)
        for order in orders
    ]
    try:
        trained, stack = train(bench, members, plan.round)
    except InputError:
        raise
    except Exception as error:  # a failed participant is a value in the reply
        if len(orders) == 1:
            return Outcome(reports=[failed(plan, orders[0], error)])
        text = "round %d: %d devices together failed; each trains alone"
        log.warning(text, plan.round, len(orders), exc_info=error, extra={"round": plan.round})
        outcome = Outcome()
        for order in orders:
            outcome.take(train_cohort(bench, plan, [order], starts, states, versions))
        return outcome
    return _Cohort(bench, plan, orders, starts, states, versions, trained, stack).outcome()


def failed(plan: HostPlan, order: DeviceOrder, error: Exception) -> DeviceReport:
    """The report of a device that has delivered nothing; what is a bug is logged as well."""
    reason = " ".join(str(error).split())[:300]
    failure = error.reason if isinstance(error, UpdateRejected) else "exception"
    if not isinstance(error, FogTuneError):
        log.error("round %d: device %s failed", plan.round, order.device, exc_info=error, extra={"round": plan.round})
        reason = f"{type(error).__name__}: {reason}"
    return DeviceReport(order.device, reason, failure=failure)


@dataclass(frozen=True)
class _Cohort:
    """Devices that have trained."""

    bench: Workbench
    plan: HostPlan
    orders: Sequence[DeviceOrder]
    starts: Starts
    states: States
    versions: Versions
    trained: Sequence[Trained]
    stack: Stack

    def outcome(self) -> Outcome:
        """Sums a module at once where nothing is done to a single device's update on its way, else device by device."""
        outcome = Outcome()
        at_once = [module for module in self.stack.values if not self._alone(module)]
        sendings: dict[int, Sending] = {}
        rejected: dict[int, UpdateRejected] = {}
        for i, order in enumerate(self.orders):
            try:
                sendings[i] = self._prepared(i, order, at_once)
            except UpdateRejected as error:
                rejected[i] = error
        sums = self._sums(at_once, rejected)
        for i, order in enumerate(self.orders):
            if i in rejected:
                outcome.reports.append(failed(self.plan, order, rejected[i]))
                continue
            outcome.add(self._receiver(order), Update(sendings[i].sums, self._metrics(i)))
            outcome.states[order.device], report = self._after(i, order, sendings[i])
            outcome.reports.append(report)
        for receiver, modules in sums.items():
            outcome.add(receiver, Update(modules, {}))
        return outcome

    def _alone(self, module: str) -> bool:
        """Whether a device's part in the sum of a module has to be made by itself."""
        special = isinstance(self.bench.config.federation.rule, Median | TrimmedMean | Scaffold)
        late = any(module in order.behind for order in self.orders)
        return special or late or bool(self.bench.ownership.compression(module))

    def _prepared(self, i: int, order: DeviceOrder, at_once: Sequence[str]) -> Sending:
        bench, state = self.bench, self.states.get(order.device, NOTHING)
        modules = [module for module in self.trained[i].modules if module not in at_once]
        where = (order.device, self.plan.round)
        start, left, parent = self.starts[order.device], state.residuals, bench.tree[order.device].parent or ""
        missed = missed_by(bench.config, bench.tree, order.device, order.behind, self.versions[parent])
        return prepare(
            bench.config, bench.ownership, *where, self.trained[i], modules, start, order.upward, left, missed
        )

    def _sums(
        self, at_once: Sequence[str], rejected: dict[int, UpdateRejected]
    ) -> dict[str, dict[str, ModuleSum | HeldUpdates]]:
        """Who adds up -> module -> the devices' sum; devices whose values cannot be added are put to the rejected."""
        while True:
            before = len(rejected)
            sums: dict[str, dict[str, ModuleSum | HeldUpdates]] = {}
            for module in at_once:
                senders: dict[str | None, list[int]] = {}
                for i, order in enumerate(self.orders):
                    if i not in rejected and module in self.trained[i].modules:
                        receiver = self._receiver(order) if module in order.upward else None
                        senders.setdefault(receiver, []).append(i)
                for receiver, some in senders.items():
                    total = self._sum(module, some, rejected)
                    if total is not None and receiver is not None:
                        sums.setdefault(receiver, {})[module] = total
            if len(rejected) == before:
                return sums

    def _sum(self, module: str, some: Sequence[int], rejected: dict[int, UpdateRejected]) -> ModuleSum | None:
        weights = [self.trained[i].samples[module] for i in some]
        try:
            return ModuleSum.of_rows(self.stack.rows(module, some), weights, self.stack.shapes[module])
        except RowsRejected as error:
            for i in (some[row] for row in error.rows):
                try:
                    ModuleSum.of(self.trained[i].modules[module], self.trained[i].samples[module])
                except UpdateRejected as reason:
                    rejected[i] = UpdateRejected(reason.reason, f"{module}/{reason.tensor}", reason.detail)
            return None

    def _receiver(self, order: DeviceOrder) -> str:
        receiver = order.receiver(self.bench.tree[order.device].parent or "")
        return self.plan.instead.get(receiver, receiver)

    def _metrics(self, i: int) -> dict[str, int]:
        metrics: dict[str, int] = {}
        for task, (loss, samples) in self.trained[i].losses.items():
            metrics |= {f"loss/{task}": fixed(loss), f"samples/{task}": samples}
        return metrics

    def _after(self, i: int, order: DeviceOrder, sending: Sending) -> tuple[DeviceState, DeviceReport]:
        """What a device remembers, and what it reports."""
        trained, state = self.trained[i], self.states.get(order.device, NOTHING)
        sent = tuple(m for m in trained.modules if m in order.upward and m not in sending.skipped)
        gone = {*sent, *sending.skipped}
        kept = {m: t for m, t in state.kept.items() if m not in gone}
        kept |= {m: _own(trained.modules[m]) for m in trained.modules if m not in gone}
        report = DeviceReport(
            order.device,
            error=None,
            sent=sent,
            kept=tuple(kept),
            experts=tuple(k for k in order.experts if f"expert/{k}" in trained.modules),
            personal=self._personal(i, order) if self.plan.personal else None,
            loss=_mean(trained.losses.values()),
        )
        return DeviceState(kept, {**state.controls, **trained.controls}, order.experts, sending.residuals), report

    def _personal(self, i: int, order: DeviceOrder) -> dict[str, dict[str, float]]:
        """Metrics of the device's own model, as training has left it."""
        bench, result = self.bench, {}
        with bench.model.holding(self.trained[i].model):
            for task, part in bench.parts(order.device, self.plan.round).items():
                sums = evaluate(bench, task, part.modalities, part.test, order.experts)
                result[task] = bench.head_of(task).metrics(sums)
        return result


def _mean(losses: Iterable[tuple[float, int]]) -> float | None:
    """Of sums of losses, each over so many samples."""
    found = list(losses)
    samples = sum(count for _, count in found)
    return sum(total for total, _ in found) / samples if samples else None


def _own(tensors: Tensors) -> Tensors:
    """A copy of parameters, without control variates: what is trained together is a view of all that have trained."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if not is_control(name)}
