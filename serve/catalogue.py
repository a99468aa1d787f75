"""What is served now: the versions that can be used, the rollout, and the version that answers the next request.

`refresh` looks at the run's directory and replaces one immutable state; whoever reads it sees the old one or the new
one, never a mixture. A version that is not what was published is refused, and the one before it goes on serving.
Versions are verified when they are about to be served: the newest at once, others when somebody asks for them.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fogtune.platform.errors import InputError

from .registry import Registry, Version
from .rollout import Rollout, read_rollout

log = logging.getLogger(__name__)


State = Literal["stable", "canary", "ready", "refused"]


@dataclass(frozen=True)
class VersionInfo:
    """A version, as a person sees it."""

    version: int
    state: State
    reason: str | None
    """Why it is refused."""
    metrics: Mapping[str, Mapping[str, float]]
    """Task -> metric -> value; empty of a refused version."""


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
        self._usable: dict[int, float] = {}
        """Version -> when its manifest was written, of those verified."""
        self._refused: dict[int, tuple[float, str]] = {}
        """Version -> when its manifest was written, and why it is refused."""
        self._asked = itertools.count(1)
        self._lock = threading.Lock()
        """Of the files: verifying a version takes a while, in which requests go on."""

    def refresh(self) -> None:
        """Look again. Never raises because of what it finds; what is wrong is logged once and told by `versions`."""
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

    def usable(self) -> tuple[int, ...]:
        """Numbers of the versions that can be served, ascending; verifies those never looked at."""
        with self._lock:
            return tuple(number for number in self.registry.versions() if self._version(number))

    def versions(self) -> tuple[VersionInfo, ...]:
        """All published versions, ascending; those never served are not verified for this."""
        stable, canary = self.numbers()
        found = []
        for number in self.registry.versions():
            try:
                version = self.registry.read(number)
                reason = self._refused[number][1] if number in self._refused else None
            except InputError as error:
                version, reason = None, str(error)
            metrics = {task.name: task.metrics for task in version.tasks.values()} if version and not reason else {}
            state: State = "stable" if number == stable else "canary" if number == canary else "ready"
            found.append(VersionInfo(number, "refused" if reason else state, reason, metrics))
        return tuple(found)

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
        try:
            written = (self.registry.run / "modules" / f"v{number}" / "manifest.json").stat().st_mtime
        except OSError:
            return None
        if number in self._refused and self._refused[number][0] == written:
            return None
        try:
            version = self.registry.read(number)
            if self._usable.get(number) != written:
                self.registry.verify(version)
        except InputError as error:
            log.error("v%d is refused: %s", number, error)
            self._usable.pop(number, None)
            self._refused[number] = (written, str(error))
            return None
        self._refused.pop(number, None)
        self._usable[number] = written
        return version
