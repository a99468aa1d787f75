"""Puts the pages together: one run, or several overlaid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fogtune.pipelines import readable
from fogtune.pipelines.compare import Contender, metric_names
from fogtune.platform.run.atomic import write_text
from fogtune.platform.run.directory import RunDirectory, RunInfo
from fogtune.platform.run.record import RoundRecord, headline

from .costs import costs
from .figures import Axes, colour, curve, curves, kind_colour, link_bytes, metric_curve, module_bytes, task_metric
from .network_map import network_map
from .page import card, cards, details, escape, page, panel, table, tile
from .targets import targets
from .tree import topology

AXIS_NAMES = {"round": "rounds", "bytes": "bytes", "wall": "wall time", "virtual": "virtual time", "energy": "energy"}
_PERSONAL = {"personal_mean": "devices' own models, mean", "personal_worst_decile": "devices' own models, worst decile"}


def write_report(directory: RunDirectory) -> Path:
    """Writes `report.html` of a run in any status and returns its path. InputError if the run's files are damaged."""
    info, records, nodes = directory.info, directory.records(), directory.topology()
    figures: list[dict[str, Any]] = []
    parts = [_head(directory.id, info, records)]
    if records:
        axes = Axes([records])
        parts += ["<h2>Learning</h2>", _axis_choice(axes), _learning(records, axes, figures)]
        parts += ["<h2>Communication</h2>", _communication(records, figures)]
        if spending := costs(directory, records, figures):
            parts += ["<h2>Time and energy</h2>", spending]
        parts += ["<h2>Losses</h2>", _losses(info, records)]
    else:
        parts.append("<p>No round was finished.</p>")
    if nodes:
        parts += ["<h2>Topology</h2>", network_map(directory, figures), topology(nodes)]
    parts += ["<h2>Details</h2>"]
    if records:
        parts.append(details("Rounds", _rounds(records)))
    parts.append(details("Configuration", f"<pre>{escape(directory.config_yaml)}</pre>"))
    parts.append(details("Versions", table(("package", "version"), info.versions.items())))
    path = directory.path / "report.html"
    write_text(path, page(f"{directory.id}: FogTune run", "\n".join(parts), figures))
    return path


def write_comparison(contenders: Sequence[Contender], path: Path) -> None:
    """Writes a page with the curves of several runs in one figure a task."""
    runs = [contender.records for contender in contenders]
    axes, figures, shown = Axes(runs), list[dict[str, Any]](), list[str]()
    entries = [(contender.run.id, colour(index), "") for index, contender in enumerate(contenders)]
    for task in _tasks([record for records in runs for record in records]):
        metric = next((name for records in runs if (name := task_metric(records, task))), None)
        if metric is None:
            continue
        traces = [
            curve(
                contender.run.id, colour(index), "", metric_curve(contender.records, axes.values(index), task, metric)
            )
            for index, contender in enumerate(contenders)
        ]
        figure = curves(f"task-{len(figures)}", traces, axes, metric)
        figures.append(figure)
        shown.append(card(figure, f"{task}: {metric}, held-out", entries))
    header = ("", *(contender.run.id for contender in contenders))
    summaries = [contender.info.summary for contender in contenders]
    rows = [("status", *(contender.info.status for contender in contenders))]
    for task, metric in metric_names(contenders):
        rows.append((f"{task} {metric}", *(readable.value(s.tasks.get(task, {}).get(metric)) for s in summaries)))
    rows.append(("rounds", *(str(summary.rounds) for summary in summaries)))
    rows.append(("moved", *(readable.size(sum(summary.bytes.values())) for summary in summaries)))
    rows.append(("virtual time", *(readable.duration(summary.virtual_time_s) for summary in summaries)))
    rows.append(("energy", *(readable.energy(summary.energy_j) for summary in summaries)))
    rows.append(("wall", *(readable.duration(contender.info.wall_s) for contender in contenders)))
    body = ["<h1>Runs compared</h1>", "<h2>Results</h2>", f'<div class="card">{table(header, rows)}</div>']
    body += ["<h2>Learning</h2>", _axis_choice(axes), cards(shown)]
    write_text(path, page("FogTune runs compared", "\n".join(body), figures))


def _head(run_id: str, info: RunInfo, records: Sequence[RoundRecord]) -> str:
    summary = info.summary
    planned = records[-1].rounds if records else None
    times = f"seed {info.seed} · started {info.started}" + (f" · finished {info.finished}" if info.finished else "")
    tiles = [
        tile("rounds", f"{summary.rounds} of {planned}" if planned else "0", "finished"),
        tile("wall time", readable.duration(info.wall_s), f"{readable.duration(summary.wall_s)} in rounds"),
        tile("moved", readable.size(sum(summary.bytes.values())), "over all links"),
        tile("updates lost", str(summary.updates_lost), f"{sum(record.dropped for record in records)} dropped"),
    ]
    if records and summary.virtual_time_s is not None:
        tiles.append(tile("virtual time", readable.duration(summary.virtual_time_s), "of the simulated network"))
    if records and summary.energy_j is not None:
        tiles.append(tile("energy", readable.energy(summary.energy_j), "of all nodes"))
    return "\n".join(
        [
            f'<h1>{escape(run_id)}<span class="status {info.status}">{info.status}</span></h1>',
            f'<p class="soft small">{escape(times)}</p>',
            f'<div class="problem"><b>The run failed.</b> {escape(info.error)}</div>' if info.error else "",
            f'<div class="tiles tasks">{"".join(_task_tile(*item) for item in summary.tasks.items())}</div>',
            f'<div class="tiles">{"".join(tiles)}</div>',
        ]
    )


def _task_tile(task: str, metrics: Any) -> str:
    found = headline(metrics)
    own = ", ".join(
        f"{name.removeprefix('personal_').replace('_', ' ')} {readable.value(metrics[name])}"
        for name in _PERSONAL
        if name in metrics
    )
    name, value = found or ("not evaluated", None)
    return tile(f"{task} · {name}", readable.value(value), f"devices' own: {own}" if own else "")


def _axis_choice(axes: Axes) -> str:
    choices = "".join(
        f'<label><input type="radio" name="axis" value="{axis}"{" checked" * (axis == "round")}>'
        f"{AXIS_NAMES[axis]}</label>"
        for axis in axes.titles
    )
    return f'<fieldset class="axis"><legend>curves against</legend>{choices}</fieldset>'


def _learning(records: Sequence[RoundRecord], axes: Axes, figures: list[dict[str, Any]]) -> str:
    positions = axes.values(0)
    shown = []
    for task in _tasks(records):
        metric = task_metric(records, task)
        if metric is None:
            continue
        lines = [("global model, held-out", colour(0), "", metric)]
        lines += [
            (text, colour(1), dash, name) for (name, text), dash in zip(_PERSONAL.items(), ("5 3", "2 2"), strict=True)
        ]
        drawn = [(*line, points) for line in lines if (points := metric_curve(records, positions, task, line[3]))]
        traces = [curve(text, tint, dash, points) for text, tint, dash, _, points in drawn]
        figure = curves(f"task-{len(figures)}", traces, axes, metric)
        figures.append(figure)
        shown.append(card(figure, f"{task}: {metric}", [line[:3] for line in drawn]))
    tasks = list(dict.fromkeys(task for record in records for task in record.loss))
    traces = [
        curve(
            task,
            colour(row),
            "",
            [(p, r.loss[task]) for r, p in zip(records, positions, strict=True) if task in r.loss],
        )
        for row, task in enumerate(tasks)
    ]
    figure = curves("loss", traces, axes, "mean training loss")
    figures.append(figure)
    shown.append(card(figure, "Training loss", [(task, colour(row), "") for row, task in enumerate(tasks)]))
    if reached := targets(records, _tasks(records)):
        shown.append(panel("First reached: shares of the best held-out value", reached))
    return cards(shown)


def _communication(records: Sequence[RoundRecord], figures: list[dict[str, Any]]) -> str:
    links, kinds = link_bytes("links", records)
    modules = module_bytes("modules", records)
    figures += [links, modules]
    legend = [(kind, kind_colour(kind), "box") for kind in kinds]
    return cards([card(links, "Bytes by link", legend), card(modules, "Bytes by module")])


def _losses(info: RunInfo, records: Sequence[RoundRecord]) -> str:
    restarts = "".join(f"<p>Processes were started again: {escape(why)}.</p>" for why in info.restarts)
    rows = [
        (str(record.round), str(record.participants), str(record.dropped), str(record.updates_lost), _why(record))
        for record in records
        if record.dropped or record.updates_lost
    ]
    if not rows:
        return restarts + "<p>No participant was dropped and no update was lost.</p>"
    header = ("round", "participants", "dropped", "updates lost", "why")
    return restarts + f'<div class="card">{table(header, rows)}</div>'


def _why(record: RoundRecord) -> str:
    return ", ".join(f"{failure} {count}" for failure, count in record.failures.items())


def _rounds(records: Sequence[RoundRecord]) -> str:
    tasks = _tasks(records)
    links = list(dict.fromkeys(kind for record in records for kind in record.bytes))
    header = ["round", *tasks, *(f"loss {task}" for task in tasks), *links]
    header += ["participants", "dropped", "lost", "virtual", "energy", "wall"]
    rows = []
    for record in records:
        found = [headline(record.tasks.get(task, {})) for task in tasks]
        row = [str(record.round), *(readable.value(metric[1] if metric else None) for metric in found)]
        row += [readable.value(record.loss.get(task)) for task in tasks]
        row += [readable.size(record.bytes.get(kind)) for kind in links]
        row += [str(record.participants), str(record.dropped), str(record.updates_lost)]
        row += [
            readable.duration(record.virtual_time_s),
            readable.energy(record.energy_j),
            readable.duration(record.wall_s),
        ]
        rows.append(row)
    return table(header, rows)


def _tasks(records: Sequence[RoundRecord]) -> list[str]:
    return list(dict.fromkeys(task for record in records for task in (*record.tasks, *record.loss)))
