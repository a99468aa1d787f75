"""Which published version is served: the newest one, or a pinned one, and beside it perhaps a canary.

The decision lies in `serving.json` in the run's directory, written whole or not at all. Commands and gateways write it,
every gateway reads it again and again: no other process has to be asked, alive or restarted for a decision to hold.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from fogtune.platform.config.base import Section
from fogtune.platform.errors import InputError
from fogtune.platform.run.atomic import write_text

FILE = "serving.json"
LOCK = ".serving.lock"


class Canary(Section):
    """A version tried on some of the requests that name none."""

    version: int = Field(ge=0)
    percent: float = Field(gt=0, lt=100)


class Rollout(Section):
    """What answers requests that name no version."""

    pinned: int | None = Field(default=None, ge=0)
    """null: the newest version that can be used."""
    canary: Canary | None = None


def read_rollout(run: Path) -> Rollout:
    """The run's rollout; that of the newest version if nobody has said anything. InputError if the file is damaged."""
    path = run / FILE
    try:
        return Rollout.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Rollout()
    except (OSError, ValidationError) as error:
        raise InputError(str(path), f"damaged ({' '.join(str(error).split())[:200]}); remove it") from error


def change_rollout(run: Path, change: Callable[[Rollout], Rollout]) -> Rollout:
    """Let all gateways that serve the run follow what `change` makes of the rollout that holds.

    One change after the other, whoever makes them, so that none is made of what holds no more. Raises InputError if
    the run's directory cannot be written, or what `change` raises; then what held goes on.
    """
    try:
        with (run / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
            rollout = change(read_rollout(run))
            write_text(run / FILE, rollout.model_dump_json(indent=1) + "\n")
            return rollout
    except OSError as error:
        raise InputError(str(run / FILE), f"cannot be written: {error.strerror}") from error


def promoted(rollout: Rollout, version: int | None, percent: float, usable: Sequence[int]) -> Rollout:
    """What holds after a version is promoted.

    Args:
        rollout: what held before.
        version: the version; None for the newest one, whichever it will be.
        percent: of the requests, in (0, 100]; below 100 the version becomes the canary of the one served until now, or,
            if that is itself, of the one before it.
        usable: numbers of the versions that can be served, ascending.

    Raises:
        InputError: there is no such version, or nothing that it could be the canary of.
    """
    if not 0 < percent <= 100:
        raise InputError("percent", f"{percent:g} given; allowed: more than 0, up to 100")
    if version is not None and version not in usable:
        raise InputError("version", f"{version} cannot be served; allowed: {_listed(usable)}")
    if percent == 100:
        return Rollout(pinned=version)
    if version is None:
        raise InputError("percent", f"{percent:g} given for the newest version; allowed: 100, or name the version")
    stable = rollout.pinned if rollout.pinned in usable else usable[-1]
    if stable == version:
        before = [number for number in usable if number < version]
        if not before:
            raise InputError(
                "percent",
                f"{percent:g} given, but there is no version before v{version} to answer the others; allowed: 100",
            )
        stable = before[-1]
    return Rollout(pinned=stable, canary=Canary(version=version, percent=percent))


def rolled_back(rollout: Rollout, usable: Sequence[int]) -> Rollout:
    """What holds after a roll back: without the canary if there is one, else the version before the one served.

    Either stays, whatever is published later, until another one is promoted.

    Raises:
        InputError: there is no version before it.
    """
    if rollout.canary is not None:
        return Rollout(pinned=rollout.pinned)
    served = rollout.pinned if rollout.pinned is not None else max(usable, default=0)
    before = [number for number in usable if number < served]
    if not before:
        raise InputError("version", f"there is none before v{served}; published: {_listed(usable)}")
    return Rollout(pinned=before[-1])


def _listed(versions: Sequence[int]) -> str:
    shown = [f"v{number}" for number in versions[-10:]]
    return ", ".join(shown if len(versions) <= 10 else ["...", *shown]) or "none, for none is published"
