"""Which checkpoints stay besides the newest: those of every so many rounds, and of the best round."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean

from fogtune.platform.config import Output

from .record import RoundRecord, headline


class Retention:
    """Knows the best round so far; of two that are as good, the earlier one."""

    def __init__(self, output: Output, records: Iterable[RoundRecord]) -> None:
        """Args: what the configuration says, and the rounds that have a checkpoint."""
        self._output = output
        self._best: int | None = None
        self._score = -math.inf
        for record in records:
            self.note(record)

    def note(self, record: RoundRecord) -> None:
        """Compare a round that is to have a checkpoint; one that was not evaluated is not the best."""
        found = [shown[1] for metrics in record.tasks.values() if (shown := headline(metrics))]
        if found and (score := fmean(found)) > self._score:  # never where one is not a number
            self._best, self._score = record.round, score

    def keeps(self, round_number: int) -> bool:
        """Whether the checkpoint of a round stays."""
        every = self._output.keep_every
        if every is not None and round_number % every == 0:
            return True
        return self._output.keep_best and round_number == self._best
