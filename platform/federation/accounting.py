"""What a round moved, took and measured: its ledger rows and its record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial

from fogtune.platform.aggregation import unfixed
from fogtune.platform.model.heads import HEADS
from fogtune.platform.network.actions import Action, Cost, spent
from fogtune.platform.run.record import LINKS, RoundRecord
from fogtune.platform.run.rows import LedgerRows, RowsWriter

from .cooperation import Cooperation, Disagreement
from .coordinator import Coordinator
from .messages import DeviceReport, RoundPlan
from .script import Moves
from .waiting import latest_s

Sums = Mapping[tuple[str, str], Mapping[str, int]]
"""(task, variant) -> exact metric sums over held-out data."""

_COMPUTATION = {"*": 0}
"""What the row of a computation has for modules."""


@dataclass(frozen=True)
class Booked:
    """What a round cost."""

    write: Callable[[], LedgerRows]
    """Makes its ledger rows."""
    ready_s: dict[str, float]
    """Node that took part -> virtual time at which it can begin the next round; empty without a network."""
    virtual_time_s: float | None
    """By which the round has moved the end of the latest node; null without a network."""
    energy_j: float | None
    spent_j: dict[str, float]
    """Device -> its part of the energy."""

    @cached_property
    def rows(self) -> LedgerRows:
        """Made when somebody asks: there are tens of thousands in a large round, and nothing in the next one follows
        from them."""
        return self.write()


class Accountant:
    """Turns what happened in a round into ledger rows and a record. Keeps nothing from round to round."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def book(
        self,
        plan: RoundPlan,
        reports: Sequence[DeviceReport],
        upward: Mapping[str, Sequence[str]],
        adopted: Mapping[str, Sequence[str]],
        cooperation: Cooperation,
    ) -> Booked:
        """A row a module and receiver of a transfer, a row a computation, and the clock as it stands then.

        Args:
            plan: the round's plan; what devices fetched is in it.
            reports: the devices' answers; what they sent is in them.
            upward: aggregating node -> modules whose sums it sent to its parent.
            adopted: aggregating node -> modules that it took over from its parent.
            cooperation: what neighbours averaged.
        """
        costs, state = self._coordinator.costs, self._coordinator.state
        sent = {order.device: order.upward for order in plan.orders if order.lost}
        sent |= {report.device: report.sent for report in reports if report.error is None}
        sent |= {order.device: order.upward for order in plan.late}
        moves = Moves(sent, upward, adopted, cooperation, plan.beginning)
        orders = (*plan.orders, *plan.late)
        if costs.network is None:
            return Booked(partial(costs.rows, plan.round, orders, moves, plan.first), {}, None, None, {})
        script = costs.script(plan.round, orders, moves, plan.first, state.trained)
        taken, ready_s = costs.play(plan.round, script, state.ready_s)
        moved_s = latest_s(plan, ready_s, state.latest_s) - state.latest_s
        joules = spent(script, taken)
        of_devices = {node: some for node, some in joules.items() if self._coordinator.tree.is_device(node)}
        write = partial(_rows, plan.round, script.actions, taken)
        return Booked(write, ready_s, moved_s, sum(joules.values()), of_devices)

    def record(
        self,
        plan: RoundPlan,
        reports: Sequence[DeviceReport],
        metrics: Mapping[str, int],
        booked: Booked,
        sums: Sums,
        disagreement: Mapping[str, Disagreement],
        wall_s: float,
    ) -> RoundRecord:
        """The round's line in `rounds.jsonl`.

        Args:
            plan: the round's plan.
            reports: the devices' answers.
            metrics: that arrived at the cloud: sums over all devices.
            booked: the round's costs.
            sums: of the evaluation, empty if there was none.
            disagreement: of the modules that neighbours averaged.
            wall_s: seconds that the round took here.
        """
        lost = len(plan.orders) - sum(report.error is None for report in reports)
        links, moved = booked.rows.sums(LINKS)
        tasks = self._coordinator.config.tasks
        seen = {task: metrics.get(f"samples/{task}", 0) for task in tasks}
        return RoundRecord(
            round=plan.round,
            rounds=self._coordinator.config.rounds,
            wall_s=wall_s,
            virtual_time_s=booked.virtual_time_s,
            energy_j=booked.energy_j,
            bytes=links,
            participants=len(plan.orders) + len(plan.late),
            dropped=lost + len(plan.late),
            updates_lost=lost,
            loss={task: unfixed(metrics[f"loss/{task}"]) / n for task, n in seen.items() if n},
            tasks=self._metrics(sums, reports) if plan.evaluate else {},
            modules_moved=dict(sorted(moved.items())),
            decisions=[asdict(decision) for decision in plan.decisions],
            failures=self._failures(plan, reports),
            under_way=len(self._coordinator.state.under_way),
            disagreement={module: asdict(some) for module, some in sorted(disagreement.items())},
        )

    def _failures(self, plan: RoundPlan, reports: Sequence[DeviceReport]) -> dict[str, int]:
        """Kind of failure -> updates that are missing for it."""
        kinds = Counter(report.failure or "exception" for report in reports if report.error is not None)
        kinds["too late"] += len(plan.late)
        return dict(sorted((+kinds).items()))

    def _metrics(self, sums: Sums, reports: Sequence[DeviceReport]) -> dict[str, dict[str, float]]:
        """Task -> the mean over its variants of each metric; mean and worst decile of the devices' own models."""
        result: dict[str, dict[str, float]] = {}
        for name, task in self._coordinator.config.tasks.items():
            head = HEADS[task.head]
            each = [head.metrics(s) for (task_name, _), s in sorted(sums.items()) if task_name == name]
            metrics = {metric: sum(m[metric] for m in each) / len(each) for metric in (each[0] if each else {})}
            own = sorted(r.personal[name][head.metric] for r in reports if r.personal and name in r.personal)
            if own:
                decile = own[: max(1, len(own) // 10)]
                metrics["personal_mean"] = sum(own) / len(own)
                metrics["personal_worst_decile"] = sum(decile) / len(decile)
            if metrics:  # else nobody executes it yet
                result[name] = metrics
        return result


def _rows(round_number: int, actions: Sequence[Action], taken: Sequence[Cost]) -> LedgerRows:
    """A computation is one row, and so is a module that goes to one receiver."""
    writer = RowsWriter(round_number)
    for action, cost in zip(actions, taken, strict=True):
        if action.until_s <= cost.start_s:
            continue  # it was broken off before it began
        modules = action.modules or _COMPUTATION
        sources, costs = (action.source,) * len(action.targets), _shares(action, modules, cost)
        writer.add(action.kind, sources, action.targets, modules, action.hops, action.lost, costs)
    return writer.rows()


def _shares(action: Action, modules: Mapping[str, int], cost: Cost) -> Iterator[tuple[float, float, float]]:
    """Start, seconds and joules of each target's modules: those that travel together share time and energy by their
    bytes, in their order."""
    total = sum(modules.values())
    for target in action.targets:
        before, joules = 0, cost.sender_j / len(action.targets) + cost.receiver_j[target]
        for size in modules.values():
            share = size / total if total else 1.0
            start_s = cost.start_s + (cost.seconds * before / total if total else 0.0)
            yield start_s, share * cost.seconds, share * joules
            before += size
