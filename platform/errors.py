"""Exceptions that a user of FogTune may meet. All survive pickling, so they cross Ray's process boundaries.

- FogTuneError
    - InputError: bad input: one line (what, where, what is allowed); exit code 2
        - AssetMissing: a package with weights or data is not installed or is not the pinned one
    - RunFailed: a run could not go on, for instance below quorum; exit code 1
        - ProcessLost: because a process or a machine is gone; it may go on from its newest checkpoint
    - UpdateRejected, SumOverflow (platform/aggregation): a contribution, or a whole sum, cannot be used
"""

from __future__ import annotations


class FogTuneError(Exception):
    """Base of all errors that FogTune raises on purpose."""


class InputError(FogTuneError):
    """Something the user gave is not allowed.

    `where` names the field or argument, `problem` says what is wrong with which value and what is allowed.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where = where
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class AssetMissing(InputError):
    """An asset (pretrained weights or data that ship in a package) cannot be used; `problem` says how to get it."""


class RunFailed(FogTuneError):
    """The run stopped before its last round; what it had finished is in its directory.

    `round_number` is the round that failed, 0 if none had begun.
    """

    def __init__(self, round_number: int, reason: str) -> None:
        super().__init__(round_number, reason)
        self.round_number = round_number
        self.reason = reason

    def __str__(self) -> str:
        return f"round {self.round_number}: {self.reason}" if self.round_number else self.reason


class ProcessLost(RunFailed):
    """A process that the run needs is gone, or out of reach; nothing is wrong with the run."""
