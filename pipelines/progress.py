"""What a person, or a program, sees while a run goes on: three views of the same two events.

    stage   what is being set up, before the first round
    round   a finished round

`LiveView` in a terminal (rows scroll away above a bar), `PlainView` in a file or a pipe, `JsonView` for programs.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TextIO

from fogtune.platform.run.record import RoundRecord, headline

from . import readable

if TYPE_CHECKING:
    from rich.console import Console


_WIDTHS = {"virtual": 10, "energy": 7, "moved": 7, "wall": 10}
"""Columns -> characters of their longest usual value."""


class View(Protocol):
    """Shows a run that is going on. The two methods are the run's hooks."""

    def stage(self, text: str) -> None:
        """Something that takes a while begins, for instance `loading data`."""

    def round(self, record: RoundRecord) -> None:
        """A round is finished."""


@contextmanager
def watching(*, json: bool) -> Iterator[View]:
    """The view that fits standard output; within the block nothing but it writes there.

    Libraries that print are heard on standard error instead, or above the bar of a terminal.
    """
    with ExitStack() as stack:
        if json:
            view: View = JsonView(sys.stdout)
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        elif sys.stdout.isatty():
            from rich.console import Console

            view = stack.enter_context(LiveView(Console(highlight=False)))
        else:
            view = PlainView(sys.stdout)
        yield view


@contextmanager
def watching_aside() -> Iterator[View]:
    """A view on standard error; within the block nothing is written to standard output: that is for the result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield PlainView(sys.stderr)


class JsonView:
    """One JSON object a line a round, the line that `rounds.jsonl` has; stages are not shown."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def stage(self, text: str) -> None:
        pass

    def round(self, record: RoundRecord) -> None:
        print(record.to_json(), file=self._stream, flush=True)


class PlainView:
    """Lines of text: one a stage, one a round."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def stage(self, text: str) -> None:
        print(f"{text} ...", file=self._stream, flush=True)

    def round(self, record: RoundRecord) -> None:
        parts = [" ".join(filter(None, cell)) for cell in _cells(record) if cell.text != readable.UNKNOWN]
        parts += _troubles(record)
        print(f"round {record.round}/{record.rounds}: {', '.join(parts)}", file=self._stream, flush=True)


class LiveView:
    """A table that grows by a row a round, and under it a bar with the time that is left."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = console
        self._header: dict[str, str] = {}
        self._eta = Eta()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[done]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}", markup=False),
            console=console,
        )
        self._task = self._bar.add_task("setting up", total=None, done="", eta=self._eta)

    def __enter__(self) -> LiveView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def round(self, record: RoundRecord) -> None:
        cells = [Cell("round", "", str(record.round)), *_cells(record)]
        # A round that was not evaluated does not know its metrics' names; an earlier one may.
        header = {cell.name: cell.unit or self._header.get(cell.name, "") for cell in cells}
        widths = [max(len(name), len(unit), _WIDTHS.get(name, 5)) for name, unit in header.items()]
        if header != self._header:
            self._header = header
            self._print(list(header), widths, "bold")
            self._print(list(header.values()), widths, "dim")
        troubles = _troubles(record)
        self._print([cell.text for cell in cells] + troubles, widths, "yellow" if troubles else None)
        self._eta.finished(record)
        self._bar.update(
            self._task,
            description="training",
            completed=record.round,
            total=record.rounds,
            done=f"{record.round}/{record.rounds}",
        )

    def _print(self, texts: list[str], widths: list[int], style: str | None) -> None:
        aligned = [text.rjust(width) for text, width in zip(texts, widths, strict=False)]
        self._console.print("  ".join(aligned + texts[len(widths) :]), style=style, markup=False, soft_wrap=True)


class Eta:
    """Time left, from the last rounds; as text it counts down between rounds."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._walls_s: deque[float] = deque(maxlen=5)
        self._end_s: float | None = None

    def finished(self, record: RoundRecord) -> None:
        """A round is finished now."""
        self._walls_s.append(record.wall_s)
        mean_s = sum(self._walls_s) / len(self._walls_s)
        self._end_s = self._clock_s() + mean_s * (record.rounds - record.round)

    def __str__(self) -> str:
        if self._end_s is None:
            return ""
        left_s = max(0.0, self._end_s - self._clock_s())
        return f"{left_s:.0f} s left" if left_s < 59.5 else f"{readable.duration(left_s)} left"


class Cell(NamedTuple):
    """What a view shows of a round in one place."""

    name: str
    unit: str
    text: str


def _cells(record: RoundRecord) -> list[Cell]:
    cells = []
    for task in {**record.loss, **record.tasks}:
        found = headline(record.tasks.get(task, {}))
        # An unevaluated round shows the task's column too: the columns stay where they are.
        cells.append(Cell(task, found[0] if found else "", readable.value(found[1] if found else None)))
    if record.virtual_time_s is not None:
        cells.append(Cell("virtual", "", readable.duration(record.virtual_time_s)))
    if record.energy_j is not None:
        cells.append(Cell("energy", "", readable.energy(record.energy_j)))
    cells.append(Cell("moved", "", readable.size(sum(record.bytes.values()))))
    cells.append(Cell("wall", "", readable.duration(record.wall_s)))
    return cells


def _troubles(record: RoundRecord) -> list[str]:
    lost = "update lost" if record.updates_lost == 1 else "updates lost"
    return [f"{count} {what}" for count, what in ((record.dropped, "dropped"), (record.updates_lost, lost)) if count]
