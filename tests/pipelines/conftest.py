"""What tests of commands and reports share: made-up records and runs, for what a person sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fogtune.platform.config import Config, CountedTopology, DeviceGroup, EmbeddedSource, Task, Tier
from fogtune.platform.run import NodeEntry, RoundRecord, RunDirectory

MakeRun = Callable[..., RunDirectory]


@pytest.fixture
def record() -> Callable[..., RoundRecord]:
    """Makes a record; in even rounds an update is lost, round 1 is not evaluated."""

    def make(number: int, rounds: int = 3) -> RoundRecord:
        return RoundRecord(
            round=number,
            rounds=rounds,
            wall_s=1.5,
            virtual_time_s=20.0,
            energy_j=None,
            bytes={"uplink": 1_000_000, "downlink": 2_000_000, "backhaul": 500_000, "d2d": 0},
            participants=4,
            dropped=0,
            updates_lost=int(number % 2 == 0),
            failures={"crash": 1} if number % 2 == 0 else {},
            loss={"topic": 1 / number, "vqa": 2 / number},
            tasks={}
            if number == 1
            else {
                "topic": {"accuracy": 0.25 * number, "personal_mean": 0.5, "personal_worst_decile": 0.125},
                "vqa": {"accuracy": 0.125 * number},
            },
            modules_moved={"head/topic": 1_500_000, "adapter/fusion": 2_000_000},
        )

    return make


@pytest.fixture
def make_run(tmp_path: Path, record: Callable[..., RoundRecord]) -> MakeRun:
    """Makes a run below `tmp_path / "runs"`."""

    def make(
        name: str = "demo", *, rounds: int = 3, status: str = "completed", error: str | None = None
    ) -> RunDirectory:
        config = Config(
            name=name,
            rounds=3,
            topology=CountedTopology(tiers=(Tier(name="fog", count=1),)),
            devices=(DeviceGroup(name="reader", count=4, modalities=("text",), tasks=("topic", "vqa")),),
            sources={"news": EmbeddedSource(asset="bbc-news")},
            tasks={name: Task(source="news", inputs=("text",), label=name) for name in ("topic", "vqa")},
        )
        run = RunDirectory.create(config, tmp_path / "runs")
        nodes = {"cloud": entry("cloud", None), "fog-0": entry("fog", "cloud")}
        nodes |= {f"reader-{row}": entry("device", "fog-0", "reader", ["head/topic", "head/vqa"]) for row in range(4)}
        run.write_topology(nodes)
        for number in range(1, rounds + 1):
            run.append(record(number))
        run.finish(status, error)  # type: ignore[arg-type]
        return run

    return make


def entry(tier: str, parent: str | None, group: str | None = None, modules: list[str] | None = None) -> NodeEntry:
    """A node of `topology.json`."""
    owned = modules or []
    return NodeEntry(tier=tier, parent=parent, group=group, modalities=["text"], tasks=["topic"], modules=owned)
