"""Runs as tables in a terminal and as JSON: `fogtune list` and `fogtune show`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fogtune.platform.errors import InputError
from fogtune.platform.run.directory import RunDirectory, RunInfo
from fogtune.platform.run.record import Summary, headline

from . import readable
from .spending import by_kind

STYLES = {"completed": "green", "running": "cyan", "stopped": "yellow", "failed": "red"}
"""Status -> colour."""


def list_json(runs: Iterable[RunDirectory]) -> list[dict[str, Any]]:
    """An object a run: id, path and what `run.json` says, or id, path and `problem`."""
    objects = []
    for run in runs:
        info = _info(run)
        found = {"problem": str(info)} if isinstance(info, InputError) else info.to_json()
        objects.append({"id": run.id, "path": str(run.path), **found})
    return objects


def list_table(runs: Iterable[RunDirectory]) -> Table:
    """A row a run; a damaged one has its problem instead of its results."""
    table = plain_table("run", "status", "rounds", "results", "moved", "wall", right=("rounds", "moved", "wall"))
    for run in runs:
        info = _info(run)
        if isinstance(info, InputError):
            table.add_row(Text(run.id), Text("damaged", style="red"), "", Text(info.problem), "", "")
            continue
        summary = info.summary
        table.add_row(
            Text(run.id),
            Text(info.status, style=STYLES[info.status]),
            str(summary.rounds),
            Text(results(summary)),
            readable.size(sum(summary.bytes.values())),
            readable.duration(info.wall_s),
        )
    return table


def show_json(run: RunDirectory) -> dict[str, Any]:
    """Id, path and what `run.json` says."""
    return {"id": run.id, "path": str(run.path), **run.info.to_json()}


def show(run: RunDirectory) -> RenderableType:
    """The facts of a run, then its tasks' last metrics. InputError if `run.json` is damaged."""
    info = run.info
    summary = info.summary
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("run", Text(run.id))
    facts.add_row("directory", Text(str(run.path)))
    facts.add_row("status", Text(info.status, style=STYLES[info.status]))
    if info.error:
        facts.add_row("error", Text(info.error, style="red"))
    for restart in info.restarts:
        facts.add_row("restarted", Text(restart, style="yellow"))
    facts.add_row("seed", str(info.seed))
    facts.add_row("started", info.started)
    facts.add_row("finished", info.finished or readable.UNKNOWN)
    facts.add_row("rounds", f"{summary.rounds} in {readable.duration(summary.wall_s)}")
    facts.add_row("wall", f"{readable.duration(info.wall_s)} with setting up")
    if summary.rounds and summary.virtual_time_s is not None:
        facts.add_row("virtual time", readable.duration(summary.virtual_time_s))
    if summary.rounds and summary.energy_j is not None:
        facts.add_row("energy", readable.energy(summary.energy_j))
        _add_network(facts, run)
    moved = ", ".join(f"{kind} {readable.size(count)}" for kind, count in summary.bytes.items())
    facts.add_row("moved", f"{readable.size(sum(summary.bytes.values()))} ({moved})")
    facts.add_row("updates lost", str(summary.updates_lost))
    if summary.failures:
        facts.add_row("missing for", Text(", ".join(f"{why} {count}" for why, count in summary.failures.items())))
    facts.add_row("versions", Text(", ".join(f"{package} {version}" for package, version in info.versions.items())))
    return Group(facts, "", _tasks(summary)) if summary.tasks else facts


def plain_table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table with one line under its header; the columns in `right` hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(Text(name), justify="right" if name in right else "left", no_wrap=name in right)
    return table


def results(summary: Summary) -> str:
    """`vqa accuracy 0.812, topic accuracy 0.954`."""
    found = ((task, headline(metrics)) for task, metrics in summary.tasks.items())
    return ", ".join(f"{task} {metric[0]} {readable.value(metric[1])}" for task, metric in found if metric)


def _add_network(facts: Table, run: RunDirectory) -> None:
    """What energy and time went for, and what was decided in the last round; nothing for a run without a network."""
    kinds = {kind: sums for kind, sums in by_kind(run).items() if sums.joules is not None}
    if kinds:
        facts.add_row("energy for", ", ".join(f"{kind} {readable.energy(sums.joules)}" for kind, sums in kinds.items()))
        busy = ", ".join(f"{kind} {readable.duration(sums.seconds)}" for kind, sums in kinds.items())
        facts.add_row("busy with", f"{busy} (side by side)")
    decided = Counter(decision["what"] for record in run.records()[-1:] for decision in record.decisions)
    if decided:
        facts.add_row("decisions", Text(", ".join(f"{count} {what}" for what, count in decided.items())))


def _tasks(summary: Summary) -> Table:
    names = list(dict.fromkeys(name for metrics in summary.tasks.values() for name in metrics))
    table = plain_table("task", *names, right=names)
    for task, metrics in summary.tasks.items():
        table.add_row(Text(task), *(readable.value(metrics.get(name)) for name in names))
    return table


def _info(run: RunDirectory) -> RunInfo | InputError:
    try:
        return run.info
    except InputError as error:
        return error
