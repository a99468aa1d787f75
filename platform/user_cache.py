"""Where this user's caches lie: what may be deleted at any time, and is then made again."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def user_cache() -> Path | None:
    """$FOGTUNE_CACHE, or `fogtune` in $XDG_CACHE_HOME or ~/.cache; None for an account without a home directory.

    Not made here. XDG's rule: a relative $XDG_CACHE_HOME counts as none.
    """
    if configured := os.environ.get("FOGTUNE_CACHE"):
        return Path(configured).expanduser()
    if (base := Path(os.environ.get("XDG_CACHE_HOME", ""))).is_absolute():
        return base / "fogtune"
    with suppress(RuntimeError):
        return Path.home() / ".cache" / "fogtune"
    return None
