"""Which devices are there in a round (`federation.availability`): by a model drawn by key, or by a file."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fogtune.platform.config import Churn, Config, Diurnal, Trace
from fogtune.platform.errors import InputError
from fogtune.platform.rng import numpy_generator
from fogtune.platform.topology import Tree
from fogtune.platform.wording import some

There = Callable[[str, int], bool]
"""(device, round) -> whether it is there."""

_COLUMNS = ["device", "from_round", "until_round"]


def availability(config: Config, tree: Tree) -> There | None:
    """Who is there when; null if all always are.

    Raises:
        InputError: a trace cannot be read, or names what is no device.
    """
    match config.federation.availability:
        case None:
            return None
        case Diurnal() as model:
            return _Days(config.seed, model).there
        case Churn() as model:
            return _Sessions(config.seed, model).there
        case Trace() as trace:
            times = _read(trace, tree)
            return lambda device, number: any(a <= number < b for a, b in times.get(device, [(0, number + 1)]))


class _Days:
    """A device is there for the same rounds of each day, from an hour of its own on."""

    def __init__(self, seed: int, model: Diurnal) -> None:
        self._seed = seed
        self._day = model.day_rounds
        self._length = max(1, round(model.share * model.day_rounds))
        self._begins: dict[str, int] = {}

    def there(self, device: str, number: int) -> bool:
        if device not in self._begins:
            self._begins[device] = int(numpy_generator(self._seed, "hour", device).integers(self._day))
        return (number + self._begins[device]) % self._day < self._length


class _Sessions:
    """A device is there and away in turn, for geometrically many rounds; at first as it would be after long."""

    def __init__(self, seed: int, model: Churn) -> None:
        self._seed = seed
        self._mean = {True: model.stay_rounds, False: model.away_rounds}
        self._known: dict[str, tuple[bool, list[int], np.random.Generator]] = {}
        """Device -> whether it is there at first, the rounds in which it turns, where later ones come from."""

    def there(self, device: str, number: int) -> bool:
        if device not in self._known:
            generator = numpy_generator(self._seed, "sessions", device)
            at_first = bool(generator.random() < self._mean[True] / (self._mean[True] + self._mean[False]))
            self._known[device] = at_first, [1], generator
        at_first, turns, generator = self._known[device]
        while turns[-1] <= number:
            now = at_first == (len(turns) % 2 == 1)
            turns.append(turns[-1] + int(generator.geometric(1 / self._mean[now])))
        return at_first == (bisect_right(turns, number) % 2 == 1)


def _read(trace: Trace, tree: Tree) -> dict[str, list[tuple[int, float]]]:
    """Device -> (from, until) of each time that it is there."""
    where = "federation.availability.path"
    try:
        with Path(trace.path).expanduser().open(newline="", encoding="utf-8") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(where, f"{trace.path} cannot be read ({error}); allowed: a CSV file") from None
    if header != _COLUMNS:
        problem = f"{trace.path} begins with {','.join(header)[:80]!r}; allowed: {','.join(_COLUMNS)}"
        raise InputError(where, problem)
    times: dict[str, list[tuple[int, float]]] = {}
    for number, row in enumerate(rows, 1):
        try:
            device, begins, ends = row
            time = int(begins), int(ends) if ends else float("inf")
            if not 0 <= time[0] < time[1]:
                raise ValueError
        except ValueError:
            problem = f"row {number} is {','.join(row)[:80]!r}; allowed: device,FROM,UNTIL with FROM below UNTIL"
            raise InputError(f"{where} {trace.path}", problem) from None
        if not tree.is_device(device):
            problem = f"row {number}: {device!r} is no device; allowed: {some(tree.devices)}"
            raise InputError(f"{where} {trace.path}", problem)
        times.setdefault(device, []).append(time)
    return times
