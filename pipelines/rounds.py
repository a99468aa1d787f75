"""The rounds of a run: one after the other, each with what it leaves on disk, and again where processes are lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fogtune.platform.config import Config
from fogtune.platform.errors import InputError, ProcessLost, RunFailed
from fogtune.platform.federation.local_runner import LocalRunner, Runner
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.run.atomic import required
from fogtune.platform.run.checkpoint import (
    checkpoint_rounds,
    read_checkpoint,
    read_newest_checkpoint,
    write_checkpoint,
)
from fogtune.platform.run.directory import RunDirectory
from fogtune.platform.run.ledger import Ledger
from fogtune.platform.run.published import publish
from fogtune.platform.run.record import RoundRecord
from fogtune.platform.run.retention import Retention

from .interrupts import terminated_as_interrupted, uninterrupted
from .sinks import sinks

log = logging.getLogger(__name__)

OnEvent = Callable[[RoundRecord], None]
OnStage = Callable[[str], None]


@dataclass(frozen=True)
class Rounds:
    """Runs the rounds of one run."""

    config: Config
    directory: RunDirectory
    ledger: Ledger
    on_event: OnEvent
    on_stage: OnStage

    def run(self, first: int, snapshot: Snapshot | None) -> None:
        """Run the rounds from `first` on, if there are any; where processes are lost, go on from the newest checkpoint.

        Raises:
            RunFailed: a round failed, or processes were lost too often.
            InputError: something cannot be used as configured.
        """
        tries = 0
        while first <= self.config.rounds:
            try:
                self._from(first, snapshot)
                return
            except InputError as problem:
                if not tries:
                    raise
                raise RunFailed(first, f"nothing could be started again: {problem}") from problem
            except ProcessLost as problem:
                done, snapshot = newest(self.directory)
                tries = 1 if done >= first else tries + 1
                if tries > self.config.execution.restarts:
                    raise
                log.warning("%s; the run goes on after round %d", problem, done, extra={"round": problem.round_number})
                with required(self.directory.path, done):
                    self.directory.truncate(done, str(problem))
                    self.ledger.drop_after(done)
                first = done + 1

    def _from(self, first: int, snapshot: Snapshot | None) -> None:
        """Start what runs the rounds, run those from `first` on, and stop it."""
        config, directory = self.config, self.directory
        lasting = {number for number in checkpoint_rounds(directory.path) if number < first}
        retention = Retention(config.output, (record for record in directory.records() if record.round in lasting))
        runner = _runner(config, directory.id, self.on_stage)
        try:
            # The handler not earlier: Ray sets one of its own when it starts. Who is told of the round may count on it.
            with terminated_as_interrupted():
                if snapshot is not None:
                    runner.restore(snapshot)
                self.on_stage(f"round {first} of {config.rounds}")
                with sinks(config, directory.path, first) as tell:
                    for number in range(first, config.rounds + 1):
                        record = self._round(runner, retention, number)
                        tell(record)
                        self.on_event(record)
        finally:
            runner.close()

    def _round(self, runner: Runner, retention: Retention, number: int) -> RoundRecord:
        """One round and everything it leaves on disk; the checkpoint last, so that what it stands for is there."""
        config, path, output = self.config, self.directory.path, self.config.output
        lasting, publishing = (
            number % every == 0 or number == config.rounds for every in (output.checkpoint_every, output.publish_every)
        )
        result = runner.round(number)
        snapshot = runner.snapshot() if lasting or publishing else None
        if result.lost is not None:
            log.warning("round %d goes on without %s", number, result.lost, extra={"round": number})
        with uninterrupted(), required(path, number):
            self.ledger.book(result.rows)
            if lasting:
                self.ledger.seal()
            if snapshot is not None and publishing:
                publish(path, config, runner.setup, snapshot, result.record.tasks)
            self.directory.append(result.record, lasting=lasting)
            if snapshot is not None and lasting:
                retention.note(result.record)
                write_checkpoint(path, number, snapshot.flatten(), output.keep_checkpoints, retention.keeps)
        log.info("finished in %.2f s", result.record.wall_s, extra={"round": number})
        return result.record


def newest(directory: RunDirectory) -> tuple[int, Snapshot | None]:
    """The round of the newest checkpoint of which all is whole, and what it holds; 0 and None before the first."""
    found = read_newest_checkpoint(directory.path, Ledger(directory.path).whole_until())
    return (0, None) if found is None else (found[0], Snapshot.unflatten(*found[1]))


def of_round(directory: RunDirectory, number: int) -> Snapshot:
    """What the checkpoint of a round holds. InputError if there is none, or it is damaged."""
    rounds = checkpoint_rounds(directory.path)
    if number not in rounds:
        allowed = ", ".join(map(str, rounds)) or "none; no round has a checkpoint"
        raise InputError("--from", f"{number} given; allowed: {allowed}")
    if Ledger(directory.path).whole_until() < number:
        raise InputError("--from", f"{number} given, but the ledger is damaged before it")
    return Snapshot.unflatten(*read_checkpoint(directory.path, number))


def _runner(config: Config, run_id: str, on_stage: OnStage) -> Runner:
    if config.execution.runner == "local":
        return LocalRunner(config, on_stage)
    from fogtune.actors.ray_runner import RayRunner

    return RayRunner(config, run_id, on_stage)
