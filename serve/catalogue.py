"""What is served now: the versions that can be used, the rollout, and the version that answers the next request.

`refresh` looks at the run's directory and replaces one immutable state; whoever reads it sees the old one or the new
one, never a mixture. A version that is not what was published is refused, and the one before it goes on serving.
Versions are verified when they are about to be served: the newest at once, others when somebody asks for them.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from fogtune.platform.errors import InputError

from .registry import Registry, Unreadable, Version
from .rollout import Rollout, change_rollout, read_rollout

log = logging.getLogger(__name__)


Metrics = Mapping[str, Mapping[str, float]]
"""Task -> metric -> value."""
State = Literal["stable", "canary", "ready", "refused"]


@dataclass(frozen=True)
class VersionInfo:
    """A version, as a person sees it."""

    version: int
    state: State
    reason: str | None
    """Why it is refused."""
    metrics: Metrics
    """Empty of a refused version."""


@dataclass(frozen=True)
class Served:
    """What requests that name no version get."""

    stable: Version
    canary: Version | None
    percent: float
    """Of the requests that the canary gets; 0 without one."""


class Catalogue:
    """One process's view of a run's versions. Any thread may call any method."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.served: Served | None = None
        """None until a version can be used."""
        self.rollout = Rollout()
        self._usable: dict[int, int] = {}
        """Version -> when its manifest was written, of those verified."""
        self._metrics: dict[int, Metrics] = {}
        self._refused: dict[int, tuple[int, str]] = {}
        """Version -> when its manifest was written, and why it is refused."""
        self._asked = itertools.count(1)
        self._lock = threading.Lock()
        """Of the files: verifying a version takes a while, in which requests go on."""

    def refresh(self) -> None:
        """Look again. What is wrong with a version is logged, told by `versions`, and changes nothing that is served.

        Raises:
            OSError: the run's directory cannot be read.
        """
        with self._lock:
            try:
                self.rollout = read_rollout(self.registry.run)
            except InputError as error:
                log.error("%s", error)  # the rollout known so far holds
            stable = self._version(self.rollout.pinned) or self._keep() or self._newest()
            canary = self._version(self.rollout.canary.version) if self.rollout.canary else None
            if stable is None:
                self.served = None
                return
            percent = self.rollout.canary.percent if canary and self.rollout.canary else 0.0
            before, self.served = self.served, Served(stable, canary, percent)
            if before is None or (before.stable.number, before.percent) != (stable.number, percent):
                log.info("serving v%d%s", stable.number, f" and {percent:g} % v{canary.number}" if canary else "")

    def version(self, number: int) -> Version:
        """A version by number. InputError if there is none or it is refused."""
        with suppress(InputError):  # told below
            version = self.registry.read(number)
            if self._usable.get(number) == version.written_ns:
                return version  # without waiting for others to be verified
        with self._lock:
            found = self._version(number)
        if found is None:
            reason = self._refused.get(number, (0, "no such version"))[1]
            raise InputError("version", f"v{number} cannot be served ({reason})")
        return found

    def choose(self) -> Version | None:
        """The version of the next request that names none; the canary's turns are spread evenly."""
        served = self.served
        if served is None:
            return None
        asked = next(self._asked)
        turn = int(asked * served.percent / 100) > int((asked - 1) * served.percent / 100)
        return served.canary if turn and served.canary else served.stable

    def numbers(self) -> tuple[int | None, int | None]:
        """Of the stable version and of the canary, as far as there are any."""
        served = self.served
        if served is None:
            return None, None
        return served.stable.number, served.canary.number if served.canary else None

    @property
    def refused(self) -> int:
        """How many versions are refused."""
        return len(self._refused)

    def decide(self, decide: Callable[[Rollout, Sequence[int]], Rollout]) -> Rollout:
        """Change what all who serve the run follow, and follow it.

        Args:
            decide: (what holds, numbers of the versions that can be served, ascending) -> what shall hold. The
                versions that it names are verified; if one turns out to be damaged, it is asked again without that.

        Raises:
            InputError: what `decide` raises, or the decision cannot be written.
        """

        def change(held: Rollout) -> Rollout:
            usable = [number for number in self.registry.versions() if number not in self._refused]
            while True:
                decided = decide(held, usable)
                named = [decided.pinned, decided.canary.version if decided.canary else None]
                damaged = [number for number in named if number is not None and not self._can_be_served(number)]
                if not damaged:
                    return decided
                usable = [number for number in usable if number not in damaged]

        rollout = change_rollout(self.registry.run, change)
        self.refresh()
        return rollout

    def versions(self) -> tuple[VersionInfo, ...]:
        """All published versions, ascending; those never served are not verified for this."""
        stable, canary = self.numbers()
        found = []
        for number in self.registry.versions():
            metrics: Metrics = {}
            try:
                metrics = self._metrics_of(number)
                reason = self._refused.get(number, (0, None))[1]
            except InputError as error:
                reason = str(error)
            state: State = "stable" if number == stable else "canary" if number == canary else "ready"
            found.append(VersionInfo(number, "refused" if reason else state, reason, {} if reason else metrics))
        return tuple(found)

    def _metrics_of(self, number: int) -> Metrics:
        """Kept for all versions, for their manifests are long and the registry keeps few."""
        if number not in self._metrics:
            tasks = self.registry.read(number).tasks
            self._metrics[number] = {task.name: task.metrics for task in tasks.values()}
        return self._metrics[number]

    def _can_be_served(self, number: int) -> bool:
        with suppress(InputError):
            self.version(number)
            return True
        return False

    def _keep(self) -> Version | None:
        """Under a pin that cannot be followed, what is served goes on."""
        if self.rollout.pinned is None or self.served is None:
            return None
        return self._version(self.served.stable.number)

    def _newest(self) -> Version | None:
        return next(filter(None, map(self._version, reversed(self.registry.versions()))), None)

    def _version(self, number: int | None) -> Version | None:
        """The version if it can be served; verified at the first call, and again if it was published again."""
        if number is None:
            return None
        written_ns = self.registry.written_ns(number)
        if written_ns is None or self._refused.get(number, (0, ""))[0] == written_ns:
            return None
        try:
            version = self.registry.read(number)
            if self._usable.get(number) != written_ns:
                self.registry.verify(version)
        except Unreadable as error:
            log.error("v%d cannot be looked at now: %s", number, error)
            return None
        except InputError as error:
            log.error("v%d is refused: %s", number, error)
            self._usable.pop(number, None)
            self._refused[number] = (written_ns, str(error))
            return None
        self._refused.pop(number, None)
        if self._usable.get(number) != written_ns:
            self._usable[number] = written_ns
            self._metrics.pop(number, None)
        return version
