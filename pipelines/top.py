"""`fogtune top`: the federations that run on a Ray cluster, in a terminal, as long as somebody looks.

It only reads what Ray tells anybody (`actors/watching.py`), so that no round is a moment longer for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from fogtune.platform.errors import InputError
from fogtune.platform.run.record import headline

from . import readable
from .show import plain_table

if TYPE_CHECKING:
    from fogtune.actors.watching import Federation, SeenActor

EVERY_S = 2.0
"""So often the view is made anew; Ray has new numbers every few seconds."""
MOST_ACTORS = 16
"""Of a federation that are shown, those first that do not live."""
NOTHING = "no federation is running there; `fogtune run --address ADDR` starts one"

Look = Callable[[], "list[Federation]"]


@contextmanager
def looking(address: str, run: str | None) -> Iterator[Look]:
    """Gives what tells, within the block, what runs on the cluster at an address; of one run, if one is named.

    Raises:
        InputError: there is no such cluster, or no more. When it is called: the run does not run there.
    """
    import ray

    from fogtune.actors.joining import join, require_reachable
    from fogtune.actors.watching import federations

    def look() -> list[Federation]:
        require_reachable(ray.get_runtime_context().gcs_address)
        found = federations()
        if run is None:
            return found
        if not (named := [federation for federation in found if federation.run == run]):
            running = ", ".join(federation.run for federation in found) or "none"
            raise InputError(run, f"is not running there; running: {running}")
        return named

    ours = not ray.is_initialized()
    try:
        if ours:
            join(address, "top", lambda _: None)
        yield look
    except InputError as error:
        raise InputError("--address", error.problem) if error.where == "execution.address" else error from None
    finally:
        if ours:
            ray.shutdown()


def watch(look: Look, console: Console) -> None:
    """Show what runs, until Ctrl-C or until nothing does. InputError if the run that is looked at has ended."""
    from rich.live import Live

    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while found := look():
            live.update(view(found), refresh=True)
            time.sleep(EVERY_S)


def view(found: Sequence[Federation]) -> RenderableType:
    """What there is to see of federations, one below the other."""
    parts: list[RenderableType] = []
    for federation in found:
        parts += ["", *_view(federation)] if parts else _view(federation)
    return Group(*parts)


def view_json(found: Sequence[Federation]) -> list[dict[str, Any]]:
    """An object a federation: its run, its numbers with `left_s`, its actors."""
    return [
        {"run": one.run, **asdict(one.numbers), "left_s": one.numbers.left_s, "actors": [asdict(a) for a in one.actors]}
        for one in found
    ]


def _view(federation: Federation) -> list[RenderableType]:
    """The title, the costs, the tasks and the actors."""
    numbers = federation.numbers
    title = Text(federation.run, style="bold")
    if numbers.round is None:
        return [title.append(": no round yet", style="not bold"), _actors(federation.actors)]
    pace = f"{readable.duration(numbers.round_s)} a round, {readable.duration(numbers.left_s)} left"
    title.append(f"  round {numbers.round} of {numbers.rounds}, {pace}", style="not bold")
    took_part = [f"{numbers.participants} took part", f"{numbers.dropped} dropped", f"{numbers.updates_lost} lost"]
    moved = [f"{link} {readable.size(count)}" for link, count in numbers.bytes.items()]
    network = [
        f"virtual {readable.duration(numbers.virtual_time_s)}" if numbers.virtual_time_s is not None else "",
        f"energy {readable.energy(numbers.energy_j)}" if numbers.energy_j is not None else "",
    ]
    return [
        title,
        Text(", ".join(filter(None, [*took_part, *network, *moved]))),
        _tasks(federation),
        _actors(federation.actors),
    ]


def _tasks(federation: Federation) -> RenderableType:
    table = plain_table("task", "metric", "value", "loss", right=("value", "loss"))
    numbers = federation.numbers
    for task in sorted({*numbers.loss, *numbers.tasks}):
        name, value = headline(numbers.tasks.get(task, {})) or (readable.UNKNOWN, None)
        table.add_row(Text(task), Text(name), readable.value(value), readable.value(numbers.loss.get(task)))
    return table


def _actors(actors: Sequence[SeenActor]) -> RenderableType:
    """The coordinator, who does not live, and as many others as there is room for."""
    table = plain_table("actor", "state", "machine", "restarts", right=("restarts",))
    shown = sorted(actors, key=lambda actor: (actor.name != "coordinator", actor.state in (None, "ALIVE")))[
        :MOST_ACTORS
    ]
    for actor in shown:
        state = Text(
            (actor.state or readable.UNKNOWN).lower(), style="" if actor.state in (None, "ALIVE") else "yellow"
        )
        restarts = readable.UNKNOWN if actor.restarts is None else str(actor.restarts)
        table.add_row(Text(actor.name), state, Text(actor.machine or readable.UNKNOWN), restarts)
    if more := len(actors) - len(shown):
        table.add_row(Text(f"and {more} more"), "", "", "")
    return table
