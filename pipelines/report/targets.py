"""Time to target: when each task first reached shares of its best held-out value, and what that had cost by then."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

from fogtune.pipelines import readable
from fogtune.platform.run.record import RoundRecord

from .figures import task_metric
from .page import table

SHARES = (0.90, 0.95, 0.99)

_COSTS: dict[str, tuple[Callable[[RoundRecord], float | None], Callable[[float | None], str]]] = {
    "virtual time": (lambda record: record.virtual_time_s, readable.duration),
    "energy": (lambda record: record.energy_j, readable.energy),
    "moved": (lambda record: sum(record.bytes.values()), readable.size),
}


def targets(records: Sequence[RoundRecord], tasks: Sequence[str]) -> str:
    """A table, a row a task and share; costs that are not known of every round are left out. Empty without values."""
    costs = {
        name: (list(accumulate(known)), shown)
        for name, (value, shown) in _COSTS.items()
        if None not in (known := [value(record) for record in records])
    }
    rows = []
    for task in tasks:
        metric = task_metric(records, task)
        values = [record.tasks.get(task, {}).get(metric or "", math.nan) for record in records]
        best = max((value for value in values if math.isfinite(value)), default=0.0)
        if best <= 0:  # no share of it would be a target
            continue
        for share in SHARES:
            index = next(i for i, value in enumerate(values) if value >= share * best)
            spent = (shown(totals[index]) for totals, shown in costs.values())
            rows.append((task, f"{100 * share:.0f} %", readable.value(share * best), str(records[index].round), *spent))
    return table(("task", "of best", "target", "round", *costs), rows) if rows else ""
