"""The main program: fine-tune as a configuration says, from the first round or from a checkpoint, into a directory."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fogtune.platform.config import Config
from fogtune.platform.config.check import check
from fogtune.platform.config.load import load_config
from fogtune.platform.errors import InputError, ProcessLost, RunFailed
from fogtune.platform.federation.local_runner import LocalRunner, Runner
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.learning.workbench import Dataset
from fogtune.platform.network.sites import find_sites
from fogtune.platform.ownership import own
from fogtune.platform.run.atomic import required
from fogtune.platform.run.checkpoint import (
    checkpoint_rounds,
    drop_checkpoints_after,
    read_checkpoint,
    read_newest_checkpoint,
    write_checkpoint,
)
from fogtune.platform.run.directory import RunDirectory
from fogtune.platform.run.ledger import Ledger
from fogtune.platform.run.logs import logged
from fogtune.platform.run.published import publish
from fogtune.platform.run.record import NodeEntry, RoundRecord, Status
from fogtune.platform.run.retention import Retention
from fogtune.platform.topology_build import build_tree

from .interrupts import terminated_as_interrupted, uninterrupted
from .report import write_report
from .sinks import require, sinks

log = logging.getLogger(__name__)

OnEvent = Callable[[RoundRecord], None]
OnStage = Callable[[str], None]


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
        done, snapshot = _newest(directory)
    else:
        done, snapshot = from_round, _of_round(directory, from_round)
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
            _write_topology(config, directory)
        _all_rounds(config, directory, ledger, first, snapshot, on_event, on_stage)
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


def _all_rounds(
    config: Config,
    directory: RunDirectory,
    ledger: Ledger,
    first: int,
    snapshot: Snapshot | None,
    on_event: OnEvent,
    on_stage: OnStage,
) -> None:
    """Run the rounds from `first` on, if there are any; where processes are lost, go on from the newest checkpoint."""
    tries = 0
    while first <= config.rounds:
        try:
            _rounds(config, directory, ledger, first, snapshot, on_event, on_stage)
            return
        except InputError as problem:
            if not tries:
                raise
            raise RunFailed(first, f"nothing could be started again: {problem}") from problem
        except ProcessLost as problem:
            done, snapshot = _newest(directory)
            tries = 1 if done >= first else tries + 1
            if tries > config.execution.restarts:
                raise
            log.warning("%s; the run goes on after round %d", problem, done, extra={"round": problem.round_number})
            with required(directory.path, done):
                directory.truncate(done, str(problem))
                ledger.drop_after(done)
            first = done + 1


def _rounds(
    config: Config,
    directory: RunDirectory,
    ledger: Ledger,
    first: int,
    snapshot: Snapshot | None,
    on_event: OnEvent,
    on_stage: OnStage,
) -> None:
    """Start what runs the rounds, run those from `first` on, and stop it."""
    lasting = {number for number in checkpoint_rounds(directory.path) if number < first}
    retention = Retention(config.output, (record for record in directory.records() if record.round in lasting))
    runner = _runner(config, directory.id, on_stage)
    try:
        if snapshot is not None:
            runner.restore(snapshot)
        on_stage(f"round {first} of {config.rounds}")
        # The handler not earlier: Ray sets one of its own when it starts.
        with terminated_as_interrupted(), sinks(config, directory.path, first) as tell:
            for number in range(first, config.rounds + 1):
                record = _round(config, directory, ledger, runner, retention, number)
                tell(record)
                on_event(record)
    finally:
        runner.close()


def _newest(directory: RunDirectory) -> tuple[int, Snapshot | None]:
    """The round of the newest checkpoint of which all is whole, and what it holds; 0 and None before the first."""
    found = read_newest_checkpoint(directory.path, Ledger(directory.path).whole_until())
    return (0, None) if found is None else (found[0], Snapshot.unflatten(*found[1]))


def _of_round(directory: RunDirectory, number: int) -> Snapshot:
    """What the checkpoint of a round holds. InputError if there is none, or it is damaged."""
    rounds = checkpoint_rounds(directory.path)
    if number not in rounds:
        allowed = ", ".join(map(str, rounds)) or "none; no round has a checkpoint"
        raise InputError("--from", f"{number} given; allowed: {allowed}")
    if Ledger(directory.path).whole_until() < number:
        raise InputError("--from", f"{number} given, but the ledger is damaged before it")
    return Snapshot.unflatten(*read_checkpoint(directory.path, number))


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


def _round(
    config: Config, directory: RunDirectory, ledger: Ledger, runner: Runner, retention: Retention, number: int
) -> RoundRecord:
    """One round and everything it leaves on disk; the checkpoint last, so that what it stands for is there."""
    lasting, publishing = (
        number % every == 0 or number == config.rounds
        for every in (config.output.checkpoint_every, config.output.publish_every)
    )
    result = runner.round(number)
    snapshot = runner.snapshot() if lasting or publishing else None
    if result.lost is not None:
        log.warning("round %d goes on without %s", number, result.lost, extra={"round": number})
    with uninterrupted(), required(directory.path, number):
        ledger.book(result.rows)
        if lasting:
            ledger.seal()
        if snapshot is not None and publishing:
            publish(directory.path, config, runner.setup, snapshot, result.record.tasks)
        directory.append(result.record, lasting=lasting)
        if snapshot is not None and lasting:
            retention.note(result.record)
            keep = config.output.keep_checkpoints
            write_checkpoint(directory.path, number, snapshot.flatten(), keep, retention.keeps)
    log.info("finished in %.2f s", result.record.wall_s, extra={"round": number})
    return result.record


def _runner(config: Config, run_id: str, on_stage: OnStage) -> Runner:
    if config.execution.runner == "local":
        return LocalRunner(config, on_stage)
    from fogtune.actors.ray_runner import RayRunner

    return RayRunner(config, run_id, on_stage)


def _refuse_early(config: Config, on_stage: OnStage) -> None:
    """Refuse what cannot work before anything is started or written, as far as this machine can tell."""
    check(config)
    require(config)
    if config.execution.address is None:  # else the data may lie elsewhere
        on_stage("reading data")
        Dataset.load(config, build_tree(config))


def _write_topology(config: Config, directory: RunDirectory) -> None:
    tree = build_tree(config)
    ownership = own(config, tree)
    placed = {node.id: (node.x_m, node.y_m) for node in tree if node.x_m is not None and node.y_m is not None}
    points = dict(find_sites(config, tree, config.network).position_m) if config.network else placed
    groups = {group.name: group for group in config.devices}

    def entry(node_id: str) -> NodeEntry:
        node = tree[node_id]
        group = groups.get(node.group or "")
        x_m, y_m = points.get(node_id, (None, None))
        return NodeEntry(
            tier=node.tier,
            parent=node.parent,
            group=node.group,
            modalities=list(group.modalities) if group else [],
            tasks=list(group.tasks) if group else [],
            modules=list(ownership.subtree_modules(node_id)),
            x_m=x_m,
            y_m=y_m,
        )

    nodes = {node.id: entry(node.id) for node in tree}
    directory.write_topology(nodes, {name: point for name, point in points.items() if name not in nodes})


def _logging(on_stage: OnStage) -> OnStage:
    """Stages are in the log as well."""

    def stage(text: str) -> None:
        log.info(text)
        on_stage(text)

    return stage


def _ignore(_: object) -> None:
    """Nobody is watching."""
