"""When devices are there: by a model, or by a trace. Time is counted in rounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section


class Diurnal(Section):
    """Each device is there for a part of each day, all of them at hours of their own."""

    kind: Literal["diurnal"]
    """By the hour."""
    day_rounds: int = Field(default=24, ge=2)
    """Rounds of a day."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Part of the day for which a device is there, at least a round."""


class Churn(Section):
    """Devices leave and come back at random, each for itself."""

    kind: Literal["churn"]
    """At random."""
    stay_rounds: float = Field(default=8.0, ge=1)
    """Rounds that a device stays, in the mean (geometric)."""
    away_rounds: float = Field(default=4.0, ge=1)
    """Rounds until it is back, in the mean."""


class Trace(Section):
    """As a file has it."""

    kind: Literal["trace"]
    """By a file."""
    path: str
    """A CSV file with the columns `device`, `from_round` and `until_round`: a line for each time that a device is
    there, without the round in which it leaves; empty for good. Devices that it does not name are always there."""


Availability = Annotated[Diurnal | Churn | Trace, Field(discriminator="kind")]
