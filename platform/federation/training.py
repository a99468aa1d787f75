"""What a host does with a cohort: train its devices together, and add up what they send."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fogtune.platform.aggregation import (
    Contributions,
    HeldUpdates,
    ModuleSum,
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

    def add_contributions(self, module: str, found: Contributions, senders: Mapping[str, Sequence[int]]) -> None:
        """The same of a module that several devices send: at most the sums themselves are in memory besides them.

        Args:
            module: the module.
            found: what devices have made of it.
            senders: who adds up -> who of them sends it to them.
        """
        updates = [self.updates.get(receiver, Update.empty()) for receiver in senders]
        onto = [update.modules.get(module) for update in updates]
        before = [one for one in onto if not isinstance(one, HeldUpdates)]
        assert len(before) == len(onto)  # rules that look at single updates come another way
        sums = found.sums(list(senders.values()), before)
        for receiver, update, summed in zip(senders, updates, sums, strict=True):
            modules = {**update.modules, module: summed}
            self.updates[receiver] = Update({name: modules[name] for name in sorted(modules)}, update.metrics)


def train_cohort(
    bench: Workbench,
    plan: HostPlan,
    orders: Sequence[DeviceOrder],
    starts: Starts,
    states: States,
    versions: Versions,
    outcome: Outcome,
) -> None:
    """Train devices together. Where that fails, each trains alone, so that only those fail who are at fault.

    Args:
        bench: the process's model and data.
        plan: what the host does in the round.
        orders: the cohort's.
        starts: of its devices.
        states: of its devices.
        versions: of its devices' parents.
        outcome: to which what becomes of them is added.

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
            outcome.reports.append(failed(plan, orders[0], error))
            return
        text = "round %d: %d devices together failed; each trains alone"
        log.warning(text, plan.round, len(orders), exc_info=error, extra={"round": plan.round})
        for order in orders:
            train_cohort(bench, plan, [order], starts, states, versions, outcome)
        return
    _Cohort(bench, plan, orders, starts, states, versions, trained, stack).add_to(outcome)


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

    def add_to(self, outcome: Outcome) -> None:
        """Sums a module at once where nothing is done to a single device's update on its way, else device by device."""
        at_once = [module for module in self.stack.shapes if not self._alone(module)]
        sendings: dict[int, Sending] = {}
        rejected: dict[int, UpdateRejected] = {}
        for i, order in enumerate(self.orders):
            try:
                sendings[i] = self._prepared(i, order, at_once)
            except UpdateRejected as error:
                rejected[i] = error
        found = {module: self._contributions(module) for module in at_once}
        for module in at_once:
            self._reject(module, found[module], rejected)
        receivers = [self._receiver(order) for order in self.orders]
        metrics: dict[str, dict[str, int]] = {}
        for i, order in enumerate(self.orders):
            if i in rejected:
                outcome.reports.append(failed(self.plan, order, rejected[i]))
                continue
            if sums := sendings[i].sums:
                outcome.add(receivers[i], Update(sums, {}))
            measured = metrics.setdefault(receivers[i], {})
            for name, value in self._metrics(i).items():
                measured[name] = measured.get(name, 0) + value
            outcome.states[order.device], report = self._after(i, order, sendings[i])
            outcome.reports.append(report)
        for receiver, measured in metrics.items():
            outcome.add(receiver, Update({}, measured))
        for module in at_once:
            senders: dict[str, list[int]] = {}
            for i in self._training(module, rejected):
                if module in self.orders[i].upward:
                    senders.setdefault(receivers[i], []).append(i)
            if senders:
                outcome.add_contributions(module, found[module], senders)

    def _alone(self, module: str) -> bool:
        """Whether a device's part in the sum of a module has to be made by itself."""
        special = isinstance(self.bench.config.federation.rule, Median | TrimmedMean | Scaffold)
        late = any(module in order.behind for order in self.orders)
        return special or late or bool(self.bench.ownership.compression(module))

    def _prepared(self, i: int, order: DeviceOrder, at_once: Sequence[str]) -> Sending:
        bench, state = self.bench, self.states.get(order.device, NOTHING)
        modules = [module for module in self.trained[i].modules if module not in at_once]
        if not modules:
            return Sending({}, frozenset(), state.residuals)
        where = (order.device, self.plan.round)
        start, left, parent = self.starts[order.device], state.residuals, bench.tree[order.device].parent or ""
        missed = missed_by(bench.config, bench.tree, order.device, order.behind, self.versions[parent])
        return prepare(
            bench.config, bench.ownership, *where, self.trained[i], modules, start, order.upward, left, missed
        )

    def _contributions(self, module: str) -> Contributions:
        """What the devices have made of a module; of who has not trained it, of no samples."""
        return Contributions(self.stack.rows(module), [one.samples.get(module, 0) for one in self.trained])

    def _reject(self, module: str, found: Contributions, rejected: dict[int, UpdateRejected]) -> None:
        """Put the devices whose values of a module cannot be added to the rejected, whether they send it or not."""
        for i in found.refused(self._training(module, rejected)):
            try:
                ModuleSum.of(self.trained[i].modules[module], self.trained[i].samples[module])
            except UpdateRejected as error:
                rejected[i] = UpdateRejected(error.reason, f"{module}/{error.tensor}", error.detail)

    def _training(self, module: str, rejected: Collection[int]) -> list[int]:
        """Who has trained a module, but for the rejected."""
        return [i for i, one in enumerate(self.trained) if i not in rejected and module in one.modules]

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
