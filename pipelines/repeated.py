"""Runs that are made once: a completed run of the same configuration is read, not repeated."""

from __future__ import annotations

from collections.abc import Callable

from fogtune.platform.config import Config
from fogtune.platform.config.load import dump_config
from fogtune.platform.errors import RunFailed
from fogtune.platform.run.directory import RunDirectory, list_runs
from fogtune.platform.run.record import RoundRecord

from .fine_tune import run


def completed_run(
    config: Config,
    *,
    on_event: Callable[[RoundRecord], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> RunDirectory:
    """The completed run of a configuration in its `output.directory`: found there, or made now.

    Raises:
        RunFailed: it did not complete.
        InputError: the configuration cannot work.
    """
    for found in list_runs(config.output.directory):
        # The text: what an older version wrote may no longer be a configuration.
        if found.info.status == "completed" and (found.path / "config.yaml").read_text() == dump_config(config):
            return found
    directory = run(config, on_event=on_event, on_stage=on_stage).directory
    if directory.info.status != "completed":
        reason = directory.info.error or f"{config.name} was stopped"
        raise RunFailed(directory.info.summary.rounds, f"{directory.path.name}: {reason}")
    return directory
