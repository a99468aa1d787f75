"""What was measured, as Markdown tables. Figures are medians over turns; those of a turn, medians over its rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from sides import SIDES
from watching import COORDINATOR, Watched
from works import WORKS, Work

FIRST = "fogtune"
"""The side that the others are compared with."""


def work_table(folder: Path, found: Mapping[str, Sequence[Watched]]) -> str:
    """The sides of one work, a line each.

    Args:
        folder: of the work.
        found: side -> its turns, the one for its memory first.
    """
    name = folder.name
    work, clients = WORKS[name], cohort(WORKS[name])
    is_trained = work.config["local"]["optimizer"] != "none"
    head = ["", "round 1, s", "further rounds, s each", "client-rounds/s", "time / FogTune's", "start, s", "memory, MB"]
    head += ["accuracy, %", "weights apart"] if is_trained else ["updates lost"]
    rows = [head, ["---"] * len(head)]
    further_s = {side: seconds(turns)[2] for side, turns in found.items() if timed(turns)}
    finals = {side: folder / "final" / f"{side}.npz" for side in found}
    for side, turns in found.items():
        line = [SIDES[side][0]]
        memory = f"{turns[0].peak_mb:,.0f}"
        if side not in further_s:
            problem = next(turn.problem for turn in turns if turn.said is None)
            rows.append([*line, problem, *[""] * 4, memory, *[""] * (len(head) - 7)])
            continue
        start_s, first_s, each_s = seconds(turns)
        ratio = f"{each_s / further_s[FIRST]:.2f}" if FIRST in further_s else ""
        line += [figure(first_s), figure(each_s), f"{clients / each_s:,.0f}", ratio, f"{start_s:.1f}", memory]
        if is_trained:
            line += [f"{100 * median(said['accuracy'] for said in timed(turns)):.1f}", apart(folder, finals[side])]
        else:
            line.append(str(max(said.get("updates_lost", 0) for said in timed(turns))))
        rows.append(line)
    return markdown(rows)


def scale_table(found: Mapping[str, Sequence[Watched]]) -> str:
    """FogTune with more and more clients; work -> its turns."""
    head = ["clients", "fog nodes", "clients a round", "a round, s", "a client-round, ms", "start, s"]
    rows = [[*head, "coordinator, MB", "all processes, MB"], ["---"] * (len(head) + 2)]
    for name, turns in found.items():
        content = WORKS[name].config
        clients, fog = content["devices"][0]["count"], content["topology"]["tiers"][0]["count"]
        line = [f"{clients:,}", str(fog), f"{cohort(WORKS[name]):,}"]
        memory = [f"{turns[0].peak_of_mb.get(COORDINATOR, float('nan')):,.0f}", f"{turns[0].peak_mb:,.0f}"]
        if timed(turns):
            start_s, _, each_s = seconds(turns)
            line += [figure(each_s), f"{1e3 * each_s / cohort(WORKS[name]):.2f}", f"{start_s:.1f}"]
        else:
            line += [next(turn.problem for turn in turns if turn.said is None), "", ""]
        rows.append([*line, *memory])
    return markdown(rows)


def preset_table(turns: Sequence[Watched]) -> str:
    """The default preset."""
    said = timed(turns)
    if not said:
        return markdown([["default preset", turns[-1].problem], ["---", "---"]])
    whole_s, rounds_s = (median(one[key] for one in said) for key in ("whole_s", "rounds_s"))
    rows = [["", "measured"], ["---", "---"]]
    rows.append(["The whole command, s", f"{whole_s:.0f}"])
    rows.append([f"Its {said[0]['rounds']} rounds, s", f"{rounds_s:.0f}"])
    rows.append(["Memory of all processes, MB", f"{turns[0].peak_mb:,.0f}"])
    rows.append(["Updates lost", str(max(one["updates_lost"] for one in said))])
    for task, metrics in said[0]["tasks"].items():
        metric, value = next(iter(metrics.items()))
        rows.append([f"{task}: {metric}, %", f"{100 * value:.1f}"])
    return markdown(rows)


def timed(turns: Sequence[Watched]) -> list[dict[str, Any]]:
    """What the turns that were timed said."""
    return [turn.said for turn in turns[1:] if turn.said is not None]


def seconds(turns: Sequence[Watched]) -> tuple[float, float, float]:
    """Of the start, of round 1, and of a further round."""
    said = timed(turns)
    return (
        median(one["start_s"] for one in said),
        median(one["rounds_s"][0] for one in said),
        median(median(one["rounds_s"][1:]) for one in said),
    )


def cohort(work: Work) -> int:
    """Clients a round."""
    return round(work.config["federation"]["participation"] * work.config["devices"][0]["count"])


def apart(folder: Path, final: Path) -> str:
    """How far trained weights are from those of a plain loop, as a share of what training changed."""
    plains = sorted((folder / "final").glob("plain-*.npz"))
    if not plains:
        return ""
    initial, plain, ours = (dict(np.load(path)) for path in (folder / "initial.npz", plains[0], final))
    moved = sum(float(((plain[name] - initial[name]) ** 2).sum()) for name in initial)
    return f"{(sum(float(((plain[name] - ours[name]) ** 2).sum()) for name in initial) / moved) ** 0.5:.1g}"


def figure(value_s: float) -> str:
    """Three significant digits."""
    return f"{value_s:.3g}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Cells as a table; the second row is its rule."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
