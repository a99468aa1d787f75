"""FogTune: hierarchical federated fine-tuning of multi-modal multi-task foundation models on Ray.

    import fogtune
    run = fogtune.run(fogtune.preset("smoke"))
    run.directory.info.summary.tasks

Importing this package loads nothing heavy and starts nothing; names are resolved when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fogtune.pipelines.fine_tune import Run, resume, run
    from fogtune.pipelines.presets import preset
    from fogtune.platform.config import Config
    from fogtune.platform.config.load import load_config
    from fogtune.platform.errors import AssetMissing, FogTuneError, InputError, RunFailed

_HOMES = {
    "Run": "fogtune.pipelines.fine_tune",
    "resume": "fogtune.pipelines.fine_tune",
    "run": "fogtune.pipelines.fine_tune",
    "preset": "fogtune.pipelines.presets",
    "Config": "fogtune.platform.config",
    "load_config": "fogtune.platform.config.load",
    "AssetMissing": "fogtune.platform.errors",
    "FogTuneError": "fogtune.platform.errors",
    "InputError": "fogtune.platform.errors",
    "RunFailed": "fogtune.platform.errors",
}

__all__ = [
    "AssetMissing",
    "Config",
    "FogTuneError",
    "InputError",
    "Run",
    "RunFailed",
    "load_config",
    "preset",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fogtune' has no attribute {name!r}")
