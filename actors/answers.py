"""Answers of actors: what Ray raises becomes FogTune's own errors, in one line each."""

from __future__ import annotations

import re
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from fogtune.platform.errors import FogTuneError, ProcessLost


class ActorDied(ProcessLost):
    """The actor that was asked is dead, or out of reach."""


class TimedOut(ActorDied):
    """The actor that was asked took too long, and was ended."""


def get(refs: Any, round_number: int, asked: str | None = None) -> Any:
    """`ray.get` for one reference or a list of them.

    Args:
        refs: what to wait for.
        round_number: the round under way, for errors; 0 before the first.
        asked: name of the actor, where it is a single one; else errors have the name that Ray gives.

    Raises:
        FogTuneError: the one that the actor raised.
        ActorDied: the actor did not live to answer.
        ProcessLost: what the actor was to be given never came, because another had died, or Ray itself fails.
    """
    try:
        return ray.get(refs)
    except RayTaskError as error:
        if isinstance(error.cause, FogTuneError):
            raise error.cause from None
        if isinstance(error.cause, RayError):
            raise ProcessLost(round_number, _in_one_line(error.cause)) from error
        raise
    except RayActorError as error:
        raise ActorDied(round_number, _in_one_line(error, asked)) from error
    except RayError as error:
        raise ProcessLost(round_number, _in_one_line(error)) from error


def _in_one_line(error: RayError, actor: str | None = None) -> str:
    """Ray lists the properties of a dead actor, a line each, before it says why, and guesses after it."""
    text = str(error)
    if found := re.search(r"^\s*name: (\S+)$", text, re.MULTILINE):
        actor = found[1]
    cause = text.rpartition("The actor is dead because ")[2].partition("Some common causes")[0]
    line = " ".join(cause.split())[:300].rstrip(".")
    return f"{actor} died: {line}" if actor else line
