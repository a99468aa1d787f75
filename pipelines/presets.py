"""Presets: complete configurations by name."""

from __future__ import annotations

from collections.abc import Callable

from fogtune.platform.config import Config
from fogtune.platform.config.load import load_config
from fogtune.platform.errors import InputError

from .federations import (
    centralized,
    default,
    edge_only,
    hierarchical_e2,
    hierarchical_e8,
    local_only,
    smoke,
    star,
)
from .hf_fm import pareto

PRESETS: dict[str, Callable[[], Config]] = {
    "default": default,
    "star": star,
    "hierarchical-e2": hierarchical_e2,
    "hierarchical-e8": hierarchical_e8,
    "edge-only": edge_only,
    "local-only": local_only,
    "centralized": centralized,
    "pareto": pareto,
    "smoke": smoke,
}
"""Name -> preset."""


def preset(name: str, *overrides: str) -> Config:
    """A preset by name, with `a.b=c` overrides as on the command line.

    Raises:
        InputError: there is no such preset, or an override is refused.
    """
    if name not in PRESETS:
        raise InputError("preset", f"{name!r}; allowed: {', '.join(PRESETS)}")
    return load_config(PRESETS[name]().model_dump(mode="json"), overrides)
