"""What a round moved, took and measured: its ledger rows and its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from fogtune.platform.aggregation import Update, unfixed
from fogtune.platform.model.heads import HEADS
from fogtune.platform.network.actions import Action, Cost, spent
from fogtune.platform.run.record import LINKS, LedgerRow, RoundRecord

from .cooperation import Cooperation, Disagreement
from .coordinator import Coordinator
from .messages import DeviceReport, RoundPlan
from .script import Moves

Sums = Mapping[tuple[str, str], Mapping[str, int]]
"""(task, variant) -> exact metric sums over held-out data."""


@dataclass(frozen=True)
class Booked:
    """What a round cost."""

    rows: list[LedgerRow]
    ready_s: dict[str, float]
    """Node -> virtual time at which it can begin the next round; empty without a network."""
    virtual_time_s: float | None
    """By which the round has moved the end of the latest node; null without a network."""
    energy_j: float | None
    spent_j: dict[str, float]
    """Device -> its part of the energy."""


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
        moves = Moves(sent, upward, adopted, cooperation)
        script = costs.script(plan.round, plan.orders, moves, plan.first, state.trained)
        taken, ready_s = costs.play(plan.round, script, state.ready_s)
        if costs.network is None:
            rows = [row for action in script.actions for row in _rows(plan.round, action, None)]
            return Booked(rows, {}, None, None, {})
        rows = [row for pair in zip(script.actions, taken, strict=True) for row in _rows(plan.round, *pair)]
        moved_s = max(ready_s.values(), default=0.0) - max(state.ready_s.values(), default=0.0)
        joules = spent(script, taken)
        of_devices = {device: joules[device] for device in self._coordinator.tree.devices if device in joules}
        return Booked(rows, ready_s, moved_s, sum(joules.values()), of_devices)

    def record(
        self,
        plan: RoundPlan,
        reports: Sequence[DeviceReport],
        total: Update,
        booked: Booked,
        sums: Sums,
        disagreement: Mapping[str, Disagreement],
        wall_s: float,
    ) -> RoundRecord:
        """The round's line in `rounds.jsonl`.

        Args:
            plan: the round's plan.
            reports: the devices' answers.
            total: what arrived at the cloud; its metrics are those of all devices.
            booked: the round's costs.
            sums: of the evaluation, empty if there was none.
            disagreement: of the modules that neighbours averaged.
            wall_s: seconds that the round took here.
        """
        lost = len(plan.orders) - sum(report.error is None for report in reports)
        moved: dict[str, int] = {}
        links = dict.fromkeys(LINKS, 0)
        for row in booked.rows:
            if row.kind != "compute":
                moved[row.module] = moved.get(row.module, 0) + row.bytes
                links[row.kind] += row.bytes
        tasks = self._coordinator.config.tasks
        seen = {task: total.metrics.get(f"samples/{task}", 0) for task in tasks}
        return RoundRecord(
            round=plan.round,
            rounds=self._coordinator.config.rounds,
            wall_s=wall_s,
            virtual_time_s=booked.virtual_time_s,
            energy_j=booked.energy_j,
            bytes=links,
            participants=len(plan.orders),
            dropped=lost,
            updates_lost=lost,
            loss={task: unfixed(total.metrics[f"loss/{task}"]) / n for task, n in seen.items() if n},
            tasks=self._metrics(sums, reports) if plan.evaluate else {},
            modules_moved=dict(sorted(moved.items())),
            decisions=[asdict(decision) for decision in plan.decisions],
            disagreement={module: asdict(some) for module, some in sorted(disagreement.items())},
        )

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


def _rows(round_number: int, action: Action, cost: Cost | None) -> Iterator[LedgerRow]:
    """A computation is one row. Modules that travel together share time and energy by their bytes, in their order."""
    total = sum(action.modules.values())
    for target in action.targets:
        before = 0
        for module, size in action.modules.items() or [("*", 0)]:
            start_s = seconds = joules = None
            if cost is not None:
                share = size / total if total else 1.0
                start_s = cost.start_s + (cost.seconds * before / total if total else 0.0)
                joules = share * (cost.sender_j / len(action.targets) + cost.receiver_j[target])
                seconds = share * cost.seconds
            ends = (action.source, target)
            yield LedgerRow(
                round_number, action.kind, *ends, module, size, action.hops, start_s, seconds, joules, action.lost
            )
            before += size
