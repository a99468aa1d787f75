"""What a check of `fogtune doctor` finds, and how much memory there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One finding: `warning` may still run, `failure` will not."""

    what: str
    state: Literal["ok", "warning", "failure"]
    found: str
    remedy: str = ""


def free_memory_bytes() -> int | None:
    """The least of what the kernel says is available and what the cgroup still allows; none where neither is known."""
    free = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        numbers = [*_lines(limit), *_lines(used)]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            free.append(int(numbers[0]) - int(numbers[1]))
    return min(free, default=None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []
