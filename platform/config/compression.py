"""Smaller updates: transforms on the change of a module, applied in the order given, undone in reverse.

A chain has each kind at most once, in the order skip, top-k, quantise: whether to send, which values, how finely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from .base import Section


class Skip(Section):
    """A module that changed little is not sent this time; its change is kept and added to the next one.

    Lazy aggregation, after LAG (Chen et al., arXiv 1805.09965); here the measure is the module's own norm.
    """

    kind: Literal["skip"]
    """Lazy aggregation."""
    threshold: float = Field(gt=0)
    """Sent if the L2 norm of the change is at least this share of the L2 norm of the module's start version."""


class TopK(Section):
    """Of each module only the changes of largest magnitude are sent; the others are kept and added to the next ones.

    Sparsification with error feedback (Stich et al., arXiv 1809.07599; Karimireddy et al., arXiv 1901.09847).
    """

    kind: Literal["top-k"]
    """Sparsification."""
    share: float = Field(gt=0, le=1)
    """Share of the module's values that is sent, at least one value. Each takes four bytes more, for its index."""


class Quantise(Section):
    """Values are rounded at random to a few evenly spaced levels, right on average (QSGD: Alistarh et al., arXiv
    1610.02132, with the largest magnitude for the norm, as in its experiments)."""

    kind: Literal["quantise"]
    """Stochastic uniform quantisation."""
    bits: Literal[8, 4] = 8
    """Bits a value: 8 for 255 levels, 4 for 15, from minus to plus the largest magnitude of a tensor."""


Compression = Annotated[Quantise | TopK | Skip, Field(discriminator="kind")]

_ORDER = (Skip, TopK, Quantise)


def require_chain(transforms: Sequence[Compression]) -> None:
    """Raises ValueError unless each kind stands at most once, in the order skip, top-k, quantise."""
    places = [_ORDER.index(type(transform)) for transform in transforms]
    if places != sorted(set(places)):
        kinds = ", ".join(transform.kind for transform in transforms)
        raise ValueError(f"{kinds}: each kind may stand once, in the order skip, top-k, quantise")
