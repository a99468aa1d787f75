"""What a round moved and measured: ledger rows with serialised bytes, and the round's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fogtune.platform.aggregation import Update, unfixed
from fogtune.platform.model.heads import HEADS
from fogtune.platform.run.record import LINKS, Kind, LedgerRow, RoundRecord

from .coordinator import Coordinator
from .messages import DeviceReport, RoundPlan
from .sizes import message_bytes

Sums = Mapping[tuple[str, str], Mapping[str, int]]
"""(task, variant) -> exact metric sums over held-out data."""


class Accountant:
    """Turns what happened in a round into ledger rows and a record. Keeps nothing from round to round."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        initial = coordinator.setup.initial
        self._version_bytes = {module: message_bytes(tensors) for module, tensors in initial.items()}
        self._sum_bytes = {module: message_bytes(tensors, torch.int64) for module, tensors in initial.items()}

    def rows(
        self,
        plan: RoundPlan,
        reports: Sequence[DeviceReport],
        upward: Mapping[str, Sequence[str]],
        adopted: Mapping[str, Sequence[str]],
    ) -> list[LedgerRow]:
        """A row a module and transfer.

        Args:
            plan: the round's plan; what devices fetched is in it.
            reports: the devices' answers; what they sent is in them.
            upward: aggregating node -> modules whose sums it sent to its parent.
            adopted: aggregating node -> modules that it took over from its parent.
        """
        tree, version, total = self._coordinator.tree, self._version_bytes, self._sum_bytes
        rows: list[LedgerRow] = []

        def book(kind: Kind, source: str, target: str, modules: Sequence[str], size: Mapping[str, int]) -> None:
            rows.extend(LedgerRow(plan.round, kind, source, target, m, size[m], 1, None, None, None) for m in modules)

        if plan.round == 1:  # version 0 comes from the cloud
            for node in reversed(tree.aggregators):
                if tree[node].parent:
                    parent = tree[node].parent or ""
                    held = self._coordinator.state.stamps
                    book("backhaul", parent, node, [m for m in held[node] if m in held[parent]], version)
        for order in plan.orders:
            book("downlink", tree[order.device].parent or "", order.device, order.fetched, version)
        for report in sorted(reports, key=lambda report: tree.devices.index(report.device)):
            book("uplink", report.device, tree[report.device].parent or "", report.sent, version)
        for node, modules in upward.items():
            book("backhaul", node, tree[node].parent or "", modules, total)
        for node, modules in adopted.items():
            book("backhaul", tree[node].parent or "", node, modules, version)
        return rows

    def record(
        self,
        plan: RoundPlan,
        reports: Sequence[DeviceReport],
        total: Update,
        rows: Sequence[LedgerRow],
        sums: Sums,
        wall_s: float,
    ) -> RoundRecord:
        """The round's line in `rounds.jsonl`.

        Args:
            plan: the round's plan.
            reports: the devices' answers.
            total: what arrived at the cloud; its metrics are those of all devices.
            rows: the round's ledger rows.
            sums: of the evaluation, empty if there was none.
            wall_s: seconds that the round took here.
        """
        lost = len(plan.orders) - sum(report.error is None for report in reports)
        moved: dict[str, int] = {}
        links = dict.fromkeys(LINKS, 0)
        for row in rows:
            moved[row.module] = moved.get(row.module, 0) + row.bytes
            links[row.kind] = links.get(row.kind, 0) + row.bytes
        tasks = self._coordinator.config.tasks
        seen = {task: total.metrics.get(f"samples/{task}", 0) for task in tasks}
        return RoundRecord(
            round=plan.round,
            rounds=self._coordinator.config.rounds,
            wall_s=wall_s,
            virtual_time_s=None,
            energy_j=None,
            bytes=links,
            participants=len(plan.orders),
            dropped=lost,
            updates_lost=lost,
            loss={task: unfixed(total.metrics[f"loss/{task}"]) / n for task, n in seen.items() if n},
            tasks=self._metrics(sums, reports) if plan.evaluate else {},
            modules_moved=dict(sorted(moved.items())),
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
            result[name] = metrics
        return result
