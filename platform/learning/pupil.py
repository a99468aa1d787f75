"""A device at work in a round: where it starts, its steps, and what has been counted of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fogtune.platform.aggregation.sums import Tensors
from fogtune.platform.data.table import Indices
from fogtune.platform.model.statistics import known
from fogtune.platform.modules import is_statistics, statistics_of

from .batches import by_length, epochs, mixed_batches, rows_of_round, window
from .workbench import Workbench


@dataclass(frozen=True)
class Member:
    """A device that is to train."""

    device: str
    start: Mapping[str, Tensors]
    """Module -> the version that it starts from (with the server's control variates under SCAFFOLD)."""
    experts: Sequence[int] = ()
    """Experts that it holds."""
    controls: Mapping[str, Tensors] = field(default_factory=dict)
    """Module -> its own control variates (SCAFFOLD; zero where absent)."""


class Pupil:
    """A member at work: its data, its steps, and what has been counted."""

    def __init__(self, bench: Workbench, member: Member, round_number: int) -> None:
        device = member.device
        self.member = member
        self.parts = bench.parts(device, round_number)
        self._bench = bench
        self._round = round_number
        self.measured = {statistics_of(m): found for m, found in bench.statistics(device).items()}
        self.statistics = {
            module: tensors if module not in self.measured or known(tensors) else self.measured[module].tensors
            for module, tensors in member.start.items()
            if is_statistics(module)
        }
        """What it standardises by: what it started from; where there is nothing yet, its own."""
        self.through = {
            task: [m for m in bench.modules_of(task, part.modalities) if m in member.start and not is_statistics(m)]
            for task, part in self.parts.items()
        }
        """Task -> modules that its samples may pass through, of those that the device has."""
        self.passed: dict[str, int] = {}
        self.losses: dict[str, tuple[float, int]] = {}

    @cached_property
    def steps(self) -> list[tuple[str, Indices]]:
        """(Task, rows) of each."""
        config, device = self._bench.config, self.member.device
        rows = {
            task: rows_of_round(part.train, epochs(config, task), self._round, config.seed, device)
            for task, part in self.parts.items()
        }
        size = config.local.batch_size
        if config.local.group_by_length:
            rows = {t: by_length(some, self._bench.lengths(self.parts[t], some), size) for t, some in rows.items()}
        return mixed_batches(rows, size, config.seed, self._round, device)

    def count_all(self) -> None:
        """All samples of the round have been looked at by all that they may pass through."""
        config = self._bench.config
        for task, part in self.parts.items():
            first, last = window(len(part.train), epochs(config, task), self._round)
            if last > first:
                self.count(task, last - first, [last - first] * self._bench.model.num_experts)

    def count(self, task: str, samples: int, routed: Sequence[int]) -> None:
        """A step has been taken; `routed` are samples by expert."""
        for module in self.through[task]:
            if not module.startswith("expert/"):
                self.passed[module] = self.passed.get(module, 0) + samples
        for k, count in enumerate(routed):
            if count and f"expert/{k}" in self.member.start:
                self.passed[f"expert/{k}"] = self.passed.get(f"expert/{k}", 0) + count
