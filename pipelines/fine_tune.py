"""The main program: fine-tune as a configuration says, from the first round or from a checkpoint, into a directory."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from fogtune.platform.config import Config
from fogtune.platform.config.check import check
from fogtune.platform.config.load import load_config
from fogtune.platform.errors import InputError, RunFailed
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.learning.workbench import Dataset
from fogtune.platform.run.atomic import required
from fogtune.platform.run.checkpoint import drop_checkpoints_after
from fogtune.platform.run.directory import RunDirectory
from fogtune.platform.run.ledger import Ledger
from fogtune.platform.run.logs import logged
from fogtune.platform.run.record import Status
from fogtune.platform.topology_build import build_tree

from .interrupts import terminated_as_interrupted, uninterrupted
from .report import write_report
from .rounds import OnEvent, OnStage, Rounds, newest, of_round
from .sinks import require
from .topology_file import write_topology

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run that has ended, one way or another; all it made is in its directory."""

    directory: RunDirectory

    @property
    def status(self) -> Status:
        """completed, failed (the error is in `directory.info.error`) or stopped (by Ctrl-C)."""
        return self.directory.info.status


def run(config: Config, *, on_event: OnEvent | None = None, on_stage: OnStage | None = None) -> Run:
    """Fine-tune.

    Args:
        config: what to do.
        on_event: called after every round.
        on_stage: called with a short text when something begins that takes a while.

    Returns:
        The run, completed, failed or stopped.

    Raises:
        InputError: the configuration cannot work. Nothing was started, or what was is stopped again; a directory is
            left only if rounds had been finished before it came to light.
        AssetMissing: an InputError: embedded weights or data are not installed.
        RunFailed: it failed, and there is no room to write that down.
    """
    on_event, on_stage = on_event or _ignore, _logging(on_stage or _ignore)
    _refuse_early(config, on_stage)
    directory = RunDirectory.create(config, config.output.directory)
    on_stage(f"run {directory.id}")
    try:
        with logged(directory.path):
            return _work(config, directory, 1, None, on_event, on_stage)
    except InputError:
        if not directory.records():  # it says nothing that the error does not say
            shutil.rmtree(directory.path)
        raise


def resume(
    path: str | Path,
    *,
    on_event: OnEvent | None = None,
    on_stage: OnStage | None = None,
    address: str | None = None,
    from_round: int | None = None,
) -> Run:
    """Continue a run after its newest checkpoint that is whole, or from its start if no round was finished.

    It ends with the same bits as if it had never been interrupted.

    Args:
        path: the run's directory.
        on_event: called after every round.
        on_stage: called with a short text when something begins that takes a while.
        address: Ray cluster to join instead of the run's own `execution.address`.
        from_round: go back to the checkpoint of this round; what was done after it is forgotten.

    Raises:
        InputError: no run, no checkpoint that is whole, it is complete, or the configuration cannot work here.
        RunFailed: it failed, and there is no room to write that down.
    """
    on_event, on_stage = on_event or _ignore, _logging(on_stage or _ignore)
    directory = RunDirectory.open(path)
    changes = [f"execution.address={address}", "execution.runner=ray"] if address else []
    config = load_config(directory.path / "config.yaml", changes)
    try:
        completed = directory.info.status == "completed"
    except InputError as problem:
        log.warning("%s; written anew", problem)
        directory.renew_info(config)
        completed = False
    if from_round is None:
        done, snapshot = newest(directory)
    else:
        done, snapshot = from_round, of_round(directory, from_round)
    if done >= config.rounds and completed:
        raise InputError(str(path), f"all {config.rounds} rounds are done; start a new run with more rounds")
    _refuse_early(config, on_stage)
    drop_checkpoints_after(directory.path, done)
    directory.truncate(done)
    Ledger(directory.path).drop_after(done)
    on_stage(f"run {directory.id}, from round {done + 1}")
    with logged(directory.path):
        return _work(config, directory, done + 1, snapshot, on_event, on_stage)


def _work(
    config: Config,
    directory: RunDirectory,
    first: int,
    snapshot: Snapshot | None,
    on_event: OnEvent,
    on_stage: OnStage,
) -> Run:
    """Run the rounds from `first` on, and note how it ended."""
    ledger = Ledger(directory.path)
    status: Status = "stopped"
    error: str | None = None
    try:
        with required(directory.path, 0):
            write_topology(config, directory)
        Rounds(config, directory, ledger, on_event, on_stage).run(first, snapshot)
        status = "completed"
    except KeyboardInterrupt:
        log.warning("stopped by the user")
    except RunFailed as problem:
        status, error = "failed", str(problem)
    except InputError as problem:
        status, error = "failed", str(problem)
        raise
    except Exception as problem:
        status, error = "failed", f"{type(problem).__name__}: {problem}"
        raise
    finally:
        with terminated_as_interrupted(), uninterrupted():
            _end(directory, ledger, status, error)
    return Run(directory)


def _end(directory: RunDirectory, ledger: Ledger, status: Status, error: str | None) -> None:
    """Leave the directory in order, whatever happened. A run whose ledger cannot be written is not complete.

    Raises:
        RunFailed: not even its end can be noted.
    """
    finished = len(directory.records())
    try:
        with required(directory.path, finished):
            ledger.drop_after(finished)
            ledger.merge()
    except RunFailed as problem:
        status, error = "failed", error or str(problem)
    with required(directory.path, finished):
        directory.finish(status, error)
    log.info("%s%s", status, f": {error}" if error else "", extra={"round": finished})
    if status == "completed":  # not earlier: until its end is noted, it may have to be resumed
        ledger.discard_parts()
    try:
        write_report(directory)
    except OSError as problem:
        log.error("%s has no report: %s", directory.path, problem.strerror or problem)


def _refuse_early(config: Config, on_stage: OnStage) -> None:
    """Refuse what cannot work before anything is started or written, as far as this machine can tell."""
    check(config)
    require(config)
    if config.execution.address is None:  # else the data may lie elsewhere
        on_stage("reading data")
        Dataset.load(config, build_tree(config))


def _logging(on_stage: OnStage) -> OnStage:
    """Stages are in the log as well."""

    def stage(text: str) -> None:
        log.info(text)
        on_stage(text)

    return stage


def _ignore(_: object) -> None:
    """Nobody is watching."""
