"""Runs beside each other: metrics, bytes, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from fogtune.platform.run.directory import RunDirectory, RunInfo
from fogtune.platform.run.record import RoundRecord

from . import readable
from .show import STYLES, plain_table, show_json
from .spending import KINDS, Spent, by_kind


@dataclass(frozen=True)
class Contender:
    """One of the runs that are compared, as it was read."""

    run: RunDirectory
    info: RunInfo
    records: list[RoundRecord]
    spent: Mapping[str, Spent]
    """By kind of ledger row."""


def read(runs: Sequence[RunDirectory]) -> list[Contender]:
    """Reads every run. InputError for the first that is damaged."""
    return [Contender(run, run.info, run.records(), by_kind(run)) for run in runs]


def compare_json(contenders: Sequence[Contender]) -> dict[str, Any]:
    """`{"runs": [...]}`: what `show --json` gives of each."""
    return {"runs": [show_json(contender.run) for contender in contenders]}


def compare_table(contenders: Sequence[Contender]) -> Table:
    """A column a run, a row a quantity: readable however many tasks there are, with as many runs as fit the width."""
    table = plain_table("", *(contender.run.id for contender in contenders))
    for column in table.columns:
        column.overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("status", *(Text(each.info.status, style=STYLES[each.info.status]) for each in contenders))
    table.add_row("seed", *(str(each.info.seed) for each in contenders))
    table.add_row("rounds", *(str(each.info.summary.rounds) for each in contenders), end_section=True)
    for task, metric in metric_names(contenders):
        values = (each.info.summary.tasks.get(task, {}).get(metric) for each in contenders)
        table.add_row(Text(f"{task} {metric}"), *map(readable.value, values))
    table.add_section()
    for kind in dict.fromkeys(kind for each in contenders for kind in each.info.summary.bytes):
        table.add_row(kind, *(readable.size(each.info.summary.bytes.get(kind)) for each in contenders))
    table.add_row("moved", *(readable.size(sum(each.info.summary.bytes.values())) for each in contenders))
    table.add_row("updates lost", *(str(each.info.summary.updates_lost) for each in contenders), end_section=True)
    table.add_row("virtual time", *(readable.duration(each.info.summary.virtual_time_s) for each in contenders))
    table.add_row("energy", *(readable.energy(each.info.summary.energy_j) for each in contenders))
    for kind in KINDS:
        joules = [each.spent[kind].joules if kind in each.spent else None for each in contenders]
        if any(joules):
            table.add_row(f"energy for {kind}", *map(readable.energy, joules))
    table.add_row("wall", *(readable.duration(each.info.wall_s) for each in contenders))
    return table


def metric_names(contenders: Sequence[Contender]) -> list[tuple[str, str]]:
    """(task, metric) of all runs, tasks together, in the order in which they first appear."""
    names: dict[str, dict[str, None]] = {}
    for contender in contenders:
        for task, metrics in contender.info.summary.tasks.items():
            names.setdefault(task, {}).update(dict.fromkeys(metrics))
    return [(task, metric) for task, metrics in names.items() for metric in metrics]
