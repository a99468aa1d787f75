"""Ray and libraries side by side. In a process of its own, for this one may have a Ray and has the libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = """
import json, sys
from fogtune.pipelines.early import ray_beside_libraries
from fogtune.pipelines.presets import preset

config = preset("smoke", *sys.argv[1:])
told = []
with ray_beside_libraries(config, told.append):
    inside = [name in sys.modules for name in ("fogtune.pipelines.fine_tune", "ray")]
    runs = inside[1] and sys.modules["ray"].is_initialized()
after = "ray" in sys.modules and sys.modules["ray"].is_initialized()
print(json.dumps([inside[0], runs, after, bool(told)]))
"""


def block(*overrides: str) -> str:
    done = subprocess.run([sys.executable, "-c", BLOCK, *overrides], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_ray_runs_within_the_block_and_not_after() -> None:
    assert block() == "[true, true, false, true]"


@pytest.mark.parametrize("overrides", [["execution.runner=local"], ["execution.address=127.0.0.1:1"]])
def test_only_a_ray_of_the_run_s_own_is_started(overrides: list[str]) -> None:
    assert block(*overrides) == "[true, false, false, false]"
