"""What the gateway offers, whatever the protocol: v1 (serve/v1.py) and v2 (serve/v2.py) are two ways to ask for it.

    request -> version (one for the whole request) -> rows -> model server -> scores

Knows neither HTTP nor Ray: it is given the function that predicts rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fogtune.platform.data.table import Raw
from fogtune.platform.errors import FogTuneError, InputError

from .catalogue import Catalogue, VersionInfo
from .metrics import Metrics
from .problems import Problem
from .registry import TaskInfo, Version
from .rollout import Rollout, promoted, rolled_back
from .rows import Outcome, Refusal, Row
from .settings import Settings
from .variants import GLOBAL, resolve, variants_of

PredictRows = Callable[[Sequence[Row]], Awaitable[Sequence[Outcome]]]
"""Rows -> their outcomes, in order. Raises Overloaded, or TimeoutError."""


class Overloaded(FogTuneError):
    """The model servers have as many requests waiting as they may."""


@dataclass(frozen=True)
class Answer:
    """What a request gets."""

    task: TaskInfo
    version: int
    variant: str
    scores: NDArray[np.float32]
    """(n, O): probabilities; of a regression (n, 1), the number."""


class Service:
    """One run's heads, asked for in process."""

    def __init__(self, catalogue: Catalogue, settings: Settings, predict_rows: PredictRows) -> None:
        self.catalogue = catalogue
        self.settings = settings
        self.metrics = Metrics(self._task_names)
        self._predict_rows = predict_rows

    def ready(self) -> bool:
        """Whether there is a version to serve."""
        return self.catalogue.served is not None

    def stable(self) -> Version:
        """The version served now, of which a canary may get a share. Problem 503 if there is none yet."""
        if self.catalogue.served is None:
            raise _nothing_yet()
        return self.catalogue.served.stable

    def task(self, name: str, version: int | None = None) -> TaskInfo:
        """A task of the version served now, or of another. Problem 404 if there is no such task or version."""
        return _task(self.stable() if version is None else self._version(version), name)

    def versions(self) -> tuple[VersionInfo, ...]:
        """All published versions, ascending."""
        return self.catalogue.versions()

    def variants(self, task: str) -> tuple[str, ...]:
        """The variants with a head for a task, global first. Problem 404 if there is no such task."""
        version = self.stable()
        return variants_of(self.catalogue.registry.tree, version, _task(version, task).name)

    def rollout(self) -> Rollout:
        """Which versions answer requests that name none."""
        return self.catalogue.rollout

    def promote(self, version: int | None, percent: float = 100) -> Rollout:
        """Serve a version (None: always the newest) for so many percent of the requests. Problem 422 if it can't be."""
        return self._decide(lambda held, usable: promoted(held, version, percent, usable), 422)

    def rollback(self) -> Rollout:
        """Undo a canary, else serve the version before. Problem 409 if there is none."""
        return self._decide(rolled_back, 409)

    async def predict(
        self, task: str, samples: Sequence[Mapping[str, Raw]], variant: str = GLOBAL, version: int | None = None
    ) -> Answer:
        """Predict samples, all by one version.

        Args:
            task: whose head.
            samples: modality -> value, at least one of the task's inputs each.
            variant: global, fog:ID, device:ID, ...
            version: None for what the rollout says.

        Raises:
            Problem: 404 (task, version, variant), 422 (samples), 503 (no version yet, too many requests, a module that
                cannot be loaded), 504 (no answer in time).
        """
        chosen = await asyncio.to_thread(self._version, version) if version is not None else self.catalogue.choose()
        if chosen is None:
            raise _nothing_yet()
        info = _task(chosen, task)
        self._check(chosen, info, samples, variant)
        rows = [Row(task, variant, chosen.number, sample) for sample in samples]
        try:
            outcomes = await asyncio.wait_for(self._predict_rows(rows), self.settings.timeout_s)
        except TimeoutError:
            raise Problem(504, f"no answer within {self.settings.timeout_s:g} s") from None
        except Overloaded as error:
            raise Problem(503, str(error), retry_after_s=1) from None
        for outcome in outcomes:
            if isinstance(outcome, Refusal):
                after_s = 1 if outcome.status == 503 else None
                raise Problem(outcome.status, outcome.reason, retry_after_s=after_s)
        self.metrics.predicted(task, chosen.number, len(rows))
        return Answer(info, chosen.number, variant, np.stack([np.asarray(outcome) for outcome in outcomes]))

    def _check(self, version: Version, task: TaskInfo, samples: Sequence[Mapping[str, Raw]], variant: str) -> None:
        """Problem unless the variant can answer these samples."""
        registry = self.catalogue.registry
        known = [found.name for found in task.inputs]
        for i, sample in enumerate(samples):
            if not sample or not sample.keys() <= set(known):
                raise Problem(422, f"needs one or more of: {', '.join(known)}", f"inputs.{i}")
        if not 1 <= len(samples) <= self.settings.max_inputs:
            raise Problem(422, f"{len(samples)} given; allowed: 1 to {self.settings.max_inputs}", "inputs")
        for inputs in {tuple(sample) for sample in samples}:
            try:
                resolve(registry.config, registry.tree, version, task.name, variant, inputs)
            except InputError as error:
                raise Problem(404, error.problem, error.where) from None

    def _decide(self, decide: Callable[[Rollout, Sequence[int]], Rollout], status: int) -> Rollout:
        try:
            return self.catalogue.decide(decide)
        except InputError as error:
            raise Problem(status, error.problem, error.where) from None

    def _task_names(self) -> Collection[str]:
        served = self.catalogue.served
        return served.stable.tasks.keys() if served else ()

    def _version(self, number: int) -> Version:
        try:
            return self.catalogue.version(number)
        except InputError as error:
            raise Problem(404, error.problem, error.where) from None


def _task(version: Version, name: str) -> TaskInfo:
    if name not in version.tasks:
        allowed = ", ".join(version.tasks)
        raise Problem(404, f"{name!r} is no task of v{version.number}; allowed: {allowed}", "task")
    return version.tasks[name]


def _nothing_yet() -> Problem:
    return Problem(503, "the run has published no version that can be served yet", retry_after_s=5)
