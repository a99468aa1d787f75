"""The ledger rows of a round, by column: a cohort of thousands moves tens of thousands of modules a round.

They are written a transfer at a time, or many that are alike at once. A transfer has a *leg* a receiver: what is the
same for all of a leg's modules is kept once, until the columns are made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, overload

import numpy as np
import numpy.typing as npt

from .record import Kind, LedgerRow

KINDS: tuple[Kind, ...] = get_args(Kind)
_NUMBER = {kind: number for number, kind in enumerate(KINDS)}
COSTS = ("start_s", "seconds", "joules")

Cost = tuple[float, float, float]
"""Start, seconds and joules."""


@dataclass(frozen=True, eq=False)
class LedgerRows(Sequence[LedgerRow]):
    """Rows of one round, in order; as a sequence, of `LedgerRow`."""

    round: int
    nodes: tuple[str, ...]
    modules: tuple[str, ...]
    columns: Mapping[str, npt.NDArray[Any]]
    """Field of `LedgerRow`, but for `round` -> its values: `kind` as an index in `KINDS`, `source` and `target` in
    `nodes`, `module` in `modules`; NaN for costs that are null."""

    @staticmethod
    def of(rows: Iterable[LedgerRow]) -> LedgerRows:
        """Given rows. ValueError if they are not of one round, or none."""
        found = list(rows)
        if len(rounds := {row.round for row in found}) != 1:
            raise ValueError(f"rows of {len(rounds)} rounds; those of one are expected")
        writer = RowsWriter(*rounds)
        for row in found:
            start_s, seconds, joules = (
                math.nan if value is None else value for value in (row.start_s, row.seconds, row.joules)
            )
            cost = [(start_s, seconds, joules)]
            writer.add(row.kind, (row.source,), (row.target,), {row.module: row.bytes}, row.hops, row.lost, cost)
        return writer.rows()

    def __len__(self) -> int:
        return len(self.columns["kind"])

    @overload
    def __getitem__(self, index: int) -> LedgerRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[LedgerRow]: ...
    def __getitem__(self, index: int | slice) -> LedgerRow | list[LedgerRow]:
        return list(self)[index]

    def __iter__(self) -> Iterator[LedgerRow]:
        nodes, modules = self.nodes, self.modules
        for kind, source, target, module, size, hops, start_s, seconds, joules, lost in zip(
            *(column.tolist() for column in self.columns.values()), strict=True
        ):
            ends = nodes[source], nodes[target]
            costs = _null(start_s), _null(seconds), _null(joules)
            yield LedgerRow(self.round, KINDS[kind], *ends, modules[module], size, hops, *costs, lost)

    def __eq__(self, other: object) -> bool:
        """Row by row, to any sequence of rows."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def sums(self, kinds: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes by kind, of these kinds; and bytes by module of the rows of these kinds."""
        counted = np.isin(KINDS, kinds)[self.columns["kind"]]
        kind, module, size = (self.columns[name][counted] for name in ("kind", "module", "bytes"))
        of_kind, of_module = np.zeros(len(KINDS), np.int64), np.zeros(len(self.modules), np.int64)
        np.add.at(of_kind, kind, size)
        np.add.at(of_module, module, size)
        rows = np.bincount(module, minlength=len(self.modules)).tolist()
        moved = zip(self.modules, of_module.tolist(), rows, strict=True)
        return (
            {name: total for name, total in zip(KINDS, of_kind.tolist(), strict=True) if name in kinds},
            {name: total for name, total, count in moved if count},
        )


class RowsWriter:
    """Writes the rows of a round."""

    def __init__(self, round_number: int) -> None:
        self._round = round_number
        self._nodes = _Index()
        self._modules = _Index()
        self._lots: list[tuple[int, int, bool, int, int]] = []
        """Of legs that are alike kind, hops, lost, rows of each, and how many legs they are."""
        self._sources: list[int] = []
        """Of each leg."""
        self._targets: list[int] = []
        self._module: list[int] = []
        self._bytes: list[int] = []
        self._costs: list[Cost] = []

    def add(
        self,
        kind: Kind,
        sources: Sequence[str],
        targets: Sequence[str],
        modules: Mapping[str, int],
        hops: int = 1,
        lost: bool = False,
        costs: Iterable[Cost] | None = None,
    ) -> None:
        """A row a leg and module.

        Args:
            kind: of link, or `compute`.
            sources: of each leg, who sends, or computes.
            targets: of each leg, who receives.
            modules: module -> bytes, the same on every leg.
            hops: of the whole way.
            lost: whether nothing arrives.
            costs: of each row, leg by leg; null for none, then of all rows.
        """
        legs, found = len(targets), list(map(self._modules.__getitem__, modules))
        self._lots.append((_NUMBER[kind], hops, lost, len(found), legs))
        self._sources += map(self._nodes.__getitem__, sources)
        self._targets += map(self._nodes.__getitem__, targets)
        self._module += found * legs
        self._bytes += [*modules.values()] * legs
        if costs is not None:
            self._costs += costs

    def rows(self) -> LedgerRows:
        """What was written."""
        kind, hops, lost, count, legs = np.array(self._lots, np.int64).reshape(-1, 5).T
        costs = np.array(self._costs, np.float64) if self._costs else np.full((len(self._module), 3), np.nan)
        of_lot, of_leg = count * legs, np.repeat(count, legs)
        columns: dict[str, npt.NDArray[Any]] = {
            "kind": np.repeat(kind.astype(np.int8), of_lot),
            "source": np.repeat(np.array(self._sources, np.int32), of_leg),
            "target": np.repeat(np.array(self._targets, np.int32), of_leg),
            "module": np.array(self._module, np.int32),
            "bytes": np.array(self._bytes, np.int64),
            "hops": np.repeat(hops.astype(np.int16), of_lot),
            **{name: costs[:, i] for i, name in enumerate(COSTS)},
            "lost": np.repeat(lost.astype(np.bool_), of_lot),
        }
        return LedgerRows(self._round, tuple(self._nodes), tuple(self._modules), columns)


def _null(cost: float) -> float | None:
    return None if math.isnan(cost) else cost


class _Index(dict[str, int]):
    """Names by number, as they come."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number
