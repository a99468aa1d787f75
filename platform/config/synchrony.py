"""Whom the nodes of a tier wait for in a round, by the virtual clock."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section


class Synchronous(Section):
    """A node waits for all that its children send."""

    kind: Literal["synchronous"]
    """For all."""


class SemiSynchronous(Section):
    """A node waits for the first of its children and goes on without the others: what they did was in vain. More are
    asked than are waited for (over-selection: Bonawitz et al., arXiv 1902.01046)."""

    kind: Literal["semi-synchronous"]
    """For the first."""
    share: float = Field(default=0.8, gt=0, le=1)
    """Of the children that send in a round, so many are waited for, rounded up."""
    deadline_s: float | None = Field(default=None, gt=0)
    """Nor longer than this from where the node begins the round, but for the first to come; null for no deadline."""


class Asynchronous(Section):
    """A node goes on with the first of its children; the others stay under way, and come in a later round. What they
    have learned from an older version is added to the newest as a change, and counts for less (FedBuff: Nguyen et al.,
    arXiv 2106.06639)."""

    kind: Literal["asynchronous"]
    """For the first; later ones come later."""
    share: float = Field(default=0.2, gt=0, le=1)
    """Of the children under way, so many fill the node's buffer, rounded up."""
    staleness_exponent: float = Field(default=0.5, ge=0)
    """a: a change of a version that is t rounds older than the newest is multiplied by (1 + t)^-a."""


Synchrony = Annotated[Synchronous | SemiSynchronous | Asynchronous, Field(discriminator="kind")]
