"""A run's numbers for TensorBoard, in the folder `tensorboard` of its directory: `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from fogtune.platform.config import Config
from fogtune.platform.config.load import dump_config
from fogtune.platform.run.record import Status


class TensorBoard:
    """Writes event files. TensorBoard hides what an earlier life of the run wrote of rounds that are made again."""

    def __init__(self, config: Config, path: Path, first: int) -> None:
        """Args: the run's configuration, its directory, and the round that comes next."""
        self._writer = SummaryWriter(str(path / "tensorboard"), purge_step=first if first > 1 else 0)
        if first == 1:
            self._writer.add_text("configuration", f"```yaml\n{dump_config(config)}\n```", 0)

    def round(self, number: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def close(self, status: Status) -> None:
        self._writer.close()
