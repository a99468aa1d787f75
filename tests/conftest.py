"""What all tests share: nothing outside this machine is asked, and random examples are the same in every run."""

from __future__ import annotations

import os

from hypothesis import settings

# Inherited by Ray's workers and by the commands that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

# No deadline: how long an example takes is the machine's business. No database: it would make runs differ.
settings.register_profile("fogtune", deadline=None, derandomize=True, database=None)
settings.load_profile("fogtune")
