"""What can be seen of the federations on a Ray cluster without asking any of their actors: those are busy.

Who lives, and where, Ray knows; the numbers are those that a coordinator tells Prometheus (`metrics.py`), read from the
page that every machine of the cluster has. Ray brings them up to date every few seconds.
"""

from __future__ import annotations

import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.util

PREFIX = "ray_fogtune_"
"""Of the names of a federation's numbers."""
TIMEOUT_S = 3.0
"""How long a machine is waited for."""
MOST_ACTORS = 10_000
"""Of a run that are looked at, those that are dead included; Ray tells no more at once."""

Sample = tuple[str, Mapping[str, str], float]
"""A number: its name without the prefix, its labels, its value."""


@dataclass(frozen=True)
class SeenActor:
    """An actor of a federation. What only Ray's dashboard knows is null where it does not run."""

    name: str
    state: str | None = None
    """As Ray calls it: `ALIVE`, `PENDING_CREATION`, `DEAD`, ..."""
    machine: str | None = None
    """The name that Ray has for it: its address, unless it was given one."""
    restarts: int | None = None
    """How many of this name died before it."""


@dataclass(frozen=True)
class Numbers:
    """What a coordinator has told of its rounds; null, or empty, what it has not.

    Totals are since its process began.
    """

    round: int | None = None
    """The last one that is finished."""
    rounds: int | None = None
    participants: int | None = None
    """Of the last round."""
    round_s: float | None = None
    """Wall time of a round, of late."""
    wall_s: float | None = None
    virtual_time_s: float | None = None
    energy_j: float | None = None
    dropped: int = 0
    updates_lost: int = 0
    bytes: Mapping[str, int] = field(default_factory=dict)
    """Kind of link -> bytes."""
    loss: Mapping[str, float] = field(default_factory=dict)
    """Task -> mean training loss."""
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Task -> metric -> held-out value of the global model."""

    @property
    def left_s(self) -> float | None:
        """How long the rounds that are left will take; null before the first."""
        if self.round is None or self.rounds is None or self.round_s is None:
            return None
        return (self.rounds - self.round) * self.round_s


@dataclass(frozen=True)
class Federation:
    """A run that is going on."""

    run: str
    numbers: Numbers
    actors: tuple[SeenActor, ...]
    """In the order of their names, the coordinator first."""


def federations() -> list[Federation]:
    """The federations on the cluster that this process is connected to, in the order of their ids."""
    names: dict[str, list[str]] = {}
    for actor in ray.util.list_named_actors(all_namespaces=True):
        names.setdefault(actor["namespace"], []).append(actor["name"])
    runs = sorted(run for run, found in names.items() if "coordinator" in found)
    if not runs:
        return []
    machines = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    samples = _scrape([f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in machines])
    named = {node["NodeID"]: node["NodeName"] for node in machines}
    return [Federation(run, numbers_of(run, samples), _actors(run, names[run], named)) for run in runs]


def numbers_of(run: str, samples: Iterable[Sample]) -> Numbers:
    """What the youngest process of a run's coordinator has told."""
    by_process: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample[1].get("run") == run:
            by_process.setdefault(sample[1].get("WorkerId", ""), []).append(sample)
    if not by_process:
        return Numbers()
    youngest = max(
        by_process.values(), key=lambda told: max((v for name, _, v in told if name == "start_time_seconds"), default=0)
    )
    plain = {name: value for name, _, value in youngest}

    def whole(name: str) -> int | None:
        return int(plain[name]) if name in plain else None

    tasks: dict[str, dict[str, float]] = {}
    for name, labels, value in sorted(youngest, key=lambda sample: sample[1].get("metric", "")):
        if name == "task_metric":
            tasks.setdefault(labels["task"], {})[labels["metric"]] = value
    return Numbers(
        round=whole("round"),
        rounds=whole("rounds"),
        participants=whole("participants"),
        round_s=plain.get("round_duration_seconds"),
        wall_s=plain.get("round_seconds_total"),
        virtual_time_s=plain.get("virtual_seconds_total"),
        energy_j=plain.get("joules_total"),
        dropped=whole("updates_dropped_total") or 0,
        updates_lost=whole("updates_lost_total") or 0,
        bytes={labels["link"]: int(value) for name, labels, value in youngest if name == "link_bytes_total"},
        loss={labels["task"]: value for name, labels, value in youngest if name == "task_loss"},
        tasks=tasks,
    )


def _scrape(pages: Sequence[str]) -> list[Sample]:
    """The numbers of all federations; a machine that does not answer in time has none."""
    with ThreadPoolExecutor(min(32, len(pages))) as pool:
        return [sample for found in pool.map(_read, pages) for sample in found]


def _read(page: str) -> list[Sample]:
    from prometheus_client.parser import text_string_to_metric_families

    try:
        # Machines of a cluster reach each other directly, whatever proxy leads to the internet.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(page, timeout=TIMEOUT_S) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith(PREFIX)]
    except OSError:
        return []
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    return [(s.name.removeprefix(PREFIX), s.labels, s.value) for family in families for s in family.samples]


def _actors(run: str, names: Iterable[str], machines: Mapping[str, str]) -> tuple[SeenActor, ...]:
    """The actors of a run, of those that share a name the last; without Ray's dashboard, the names of the living."""
    found: Sequence[Any] = _told_actors(run)
    lives = Counter(actor.name for actor in found)
    last: dict[str, SeenActor] = {}
    for actor in sorted(found, key=lambda actor: actor.state != "DEAD"):
        machine = machines.get(actor.node_id or "")
        last[actor.name] = SeenActor(actor.name, actor.state, machine, lives[actor.name] - 1)
    last = {name: SeenActor(name) for name in names} | last
    return tuple(last[name] for name in sorted(last, key=lambda name: (name != "coordinator", name)))


def _told_actors(run: str) -> Sequence[Any]:
    from ray.util.state import list_actors
    from ray.util.state.exception import RayStateApiException

    try:
        return list_actors(
            filters=[("ray_namespace", "=", run)],
            limit=MOST_ACTORS,
            raise_on_missing_output=False,
            timeout=int(TIMEOUT_S),
        )
    except (RayStateApiException, ConnectionError, RuntimeError):
        return ()
