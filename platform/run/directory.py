"""A run's directory: a stable contract that people and tools read (docs: a run's directory).

    config.yaml      resolved configuration
    run.json         status, seed, package versions, timings, error, summary so far
    rounds.jsonl     a line a round
    topology.json    the nodes, which modules each owns, and where they stand
    ledger.parquet, checkpoints/, modules/, report.html are written by others

`run.json` is replaced whole, so a reader always finds it complete: while a run goes on, with every round that is
written lastingly, and otherwise about once a second. `rounds.jsonl` has every round at once.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from importlib import metadata
from itertools import islice
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any, get_args

from ..errors import InputError
from .atomic import commit, replacing, write_text
from .record import NodeEntry, RoundRecord, Status, Summary, dump_json

if TYPE_CHECKING:
    from ..config import Config

PACKAGES = (
    "fogtune",
    "torch",
    "transformers",
    "peft",
    "ray",
    "datasets",
    "numpy",
    "safetensors",
    "pyarrow",
    "pydantic",
)
"""Packages whose versions `run.json` notes, besides Python's."""

TELL_EVERY_S = 1.0
"""So often, at least, `run.json` is brought up to date while rounds end."""

Point = tuple[float, float]
"""x and y in metres."""

_STAMP = re.compile(r"-(\d{8}-\d{6})-[0-9a-f]{4}$")


@dataclass(frozen=True)
class RunInfo:
    """What `run.json` says."""

    name: str
    status: Status
    seed: int
    versions: Mapping[str, str]
    started: str
    """ISO 8601 with the offset from UTC."""
    finished: str | None
    wall_s: float
    """Set-up included; resumed runs add up."""
    error: str | None
    """One line, of failed runs."""
    restarts: tuple[str, ...]
    """Why processes were started again while it ran: a line each."""
    summary: Summary

    def to_json(self) -> dict[str, Any]:
        """The object in `run.json`: the timings are together, the summary comes last."""
        return {
            "name": self.name,
            "status": self.status,
            "seed": self.seed,
            "versions": dict(self.versions),
            "timings": {"started": self.started, "finished": self.finished, "wall_s": self.wall_s},
            "error": self.error,
            "restarts": list(self.restarts),
            "summary": {item.name: getattr(self.summary, item.name) for item in fields(Summary)},
        }

    @classmethod
    def from_json(cls, found: Any) -> RunInfo:
        """Raises ValueError, TypeError or KeyError if `run.json` cannot have held this."""
        if found["status"] not in get_args(Status):
            raise ValueError(f"status {found['status']!r}; allowed: {', '.join(get_args(Status))}")
        totals = {"failures": {}} | found["summary"]  # runs of before did not count them
        return cls(
            **{name: found[name] for name in ("name", "status", "seed", "versions", "error")},
            **{name: found["timings"][name] for name in ("started", "finished", "wall_s")},
            restarts=tuple(found.get("restarts", ())),  # runs of before there were any
            summary=Summary(**{item.name: totals[item.name] for item in fields(Summary)}),
        )


class RunDirectory:
    """One run on disk. Only the process that works on the run calls the methods that write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._clock_s = time.monotonic()
        self._known: RunInfo | None = None
        """What `run.json` says, or will say when it is written next."""
        self._told_s = -math.inf
        """When it was written last."""

    @property
    def id(self) -> str:
        """`<name>-<YYYYMMDD-HHMMSS>-<4 hex>`, unless somebody renamed the directory."""
        return self.path.name

    @classmethod
    def create(cls, config: Config, parent: str | Path) -> RunDirectory:
        """Makes `parent/<run-id>` with `config.yaml`, an empty `rounds.jsonl` and a `run.json` that says running.

        Raises InputError if `parent` cannot be written.
        """
        from ..config.load import dump_config

        now = datetime.now().astimezone()
        run_id = f"{config.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        info = _beginning(config, now)
        unfinished = Path(parent) / f".{run_id}.new"
        try:
            unfinished.mkdir(parents=True)
            write_text(unfinished / "config.yaml", dump_config(config))
            write_text(unfinished / "rounds.jsonl", "")
            write_text(unfinished / "run.json", dump_json(info.to_json(), indent=2) + "\n")
            commit(unfinished, Path(parent) / run_id)
        except OSError as error:
            raise InputError("output.directory", f"cannot write to {str(parent)!r}: {error.strerror}") from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return cls(Path(parent) / run_id)

    @classmethod
    def open(cls, path_or_id: str | Path, parent: str | Path = "runs") -> RunDirectory:
        """The run at this path or, if there is none, the run of this id below `parent`. InputError if neither is."""
        for path in (Path(path_or_id), Path(parent) / path_or_id):
            if (path / "run.json").is_file():
                # Resolved, so that `open(".")` has an id.
                return cls(path.resolve() if path.name in ("", "..") else path)
        if Path(path_or_id).is_dir():
            raise InputError(str(path_or_id), "not a run: it has no run.json")
        newest = [run.id for run in list_runs(parent)[-3:]]
        known = f"the newest runs there are {', '.join(reversed(newest))}" if newest else "there are no runs there"
        raise InputError(str(path_or_id), f"no such run, neither as a path nor as an id in {str(parent)!r}; {known}")

    @property
    def info(self) -> RunInfo:
        """What `run.json` says now. InputError if it is missing or damaged."""
        path = self.path / "run.json"
        try:
            return RunInfo.from_json(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(str(path), f"cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(str(path), f"damaged ({type(error).__name__}: {error})") from None

    def renew_info(self, config: Config) -> None:
        """Writes a `run.json` in the place of one that is damaged: as if the run began now."""
        self._write(_beginning(config, datetime.now().astimezone()))

    @property
    def config_yaml(self) -> str:
        """The resolved configuration as it is on disk. InputError if it is missing."""
        try:
            return (self.path / "config.yaml").read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise InputError(str(self.path / "config.yaml"), f"cannot be read: {error}") from None

    def append(self, record: RoundRecord, *, lasting: bool = True) -> None:
        """Adds a round to `rounds.jsonl` and to the summary.

        Both are on disk when this returns, if that is to be lasting; else other processes read the round, and soon the
        summary, but both may be lost with the power.
        """
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(record.to_json() + "\n")
            stream.flush()
            if lasting:
                os.fsync(stream.fileno())
        known = replace(self._current, wall_s=self._worked_s(), summary=self._current.summary.add(record))
        if lasting or self._clock_s - self._told_s > TELL_EVERY_S:
            self._write(known)
        self._known = known

    def records(self) -> list[RoundRecord]:
        """All finished rounds. A torn last line, as a crash leaves it, is not one; any other is an InputError."""
        path = self.path / "rounds.jsonl"
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise InputError(str(path), f"cannot be read: {error.strerror}") from None
        records = []
        # What follows the last newline is empty, or a line that was not written whole.
        for number, line in enumerate(lines[:-1], start=1):
            try:
                records.append(RoundRecord.from_json(line.decode()))
            except ValueError as error:
                raise InputError(f"{path}, line {number}", f"damaged ({error})") from None
        return records

    def truncate(self, round_number: int, restart: str | None = None) -> None:
        """Forgets the rounds after this one: the run goes on from its checkpoint.

        Args:
            round_number: the last round that stays.
            restart: why, if its processes were lost.
        """
        path = self.path / "rounds.jsonl"
        with replacing(path) as temporary, path.open("rb") as stream:  # as they are: checkpoints know their sha256
            temporary.write_bytes(b"".join(islice(stream, round_number)))
        kept = self.records()
        info = replace(self.info, status="running", finished=None, error=None, summary=Summary.of(kept))
        restarts = (*info.restarts, " ".join(restart.split())) if restart else info.restarts
        self._write(replace(info, wall_s=self._worked_s(), restarts=restarts))

    def finish(self, status: Status, error: str | None = None) -> None:
        """Notes how the run ended, and why if it failed; line breaks in `error` become spaces."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        line = " ".join(error.split()) if error else None
        self._write(replace(self._current, status=status, finished=now, wall_s=self._worked_s(), error=line))

    def write_topology(self, nodes: Mapping[str, NodeEntry], access_points: Mapping[str, Point] | None = None) -> None:
        """Writes `topology.json`: node id -> entry, parents before their children; access point -> position."""
        points = {name: {"x_m": x_m, "y_m": y_m} for name, (x_m, y_m) in (access_points or {}).items()}
        encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode

        def lines(
            found: Mapping[str, object],
        ) -> str:  # one an entry: of ten thousand nodes it takes a few milliseconds
            return ",\n".join(f" {encode(name)}: {encode(entry)}" for name, entry in found.items())

        text = f'{{"nodes": {{\n{lines(nodes)}\n}}, "access_points": {{\n{lines(points)}\n}}}}\n'
        write_text(self.path / "topology.json", text)

    def topology(self) -> dict[str, NodeEntry]:
        """Node id -> entry; empty if the run has not come so far. InputError if the file is damaged."""
        return self._topology[0]

    def positions(self) -> dict[str, Point]:
        """Node or access point -> where it stands, as far as that is known. InputError if the file is damaged."""
        return self._topology[1]

    @property
    def _topology(self) -> tuple[dict[str, NodeEntry], dict[str, Point]]:
        path = self.path / "topology.json"
        if not path.exists():
            return {}, {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            nodes: dict[str, NodeEntry] = found["nodes"]
            for node in nodes.values():
                if missing := NodeEntry.__required_keys__ - node.keys():
                    raise ValueError(f"a node without {', '.join(sorted(missing))}")
            placed = {**nodes, **found.get("access_points", {})}
            points = {name: (entry.get("x_m"), entry.get("y_m")) for name, entry in placed.items()}
            return nodes, {name: (float(x), float(y)) for name, (x, y) in points.items() if None not in (x, y)}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(str(path), f"damaged ({type(error).__name__}: {error})") from None

    @property
    def _current(self) -> RunInfo:
        return self._known or self.info

    def _worked_s(self) -> float:
        """Wall time of the run; `_clock_s` moves along, so that nothing is counted twice."""
        now_s = time.monotonic()
        worked_s, self._clock_s = self._current.wall_s + now_s - self._clock_s, now_s
        return worked_s

    def _write(self, info: RunInfo) -> None:
        write_text(self.path / "run.json", dump_json(info.to_json(), indent=2) + "\n")
        self._known, self._told_s = info, time.monotonic()


def list_runs(parent: str | Path) -> list[RunDirectory]:
    """The runs directly below `parent`, oldest first; none if there is no such directory."""
    runs = [RunDirectory(path.parent) for path in Path(parent).glob("*/run.json")]
    return sorted(runs, key=lambda run: (stamp[1] if (stamp := _STAMP.search(run.id)) else "", run.id))


def _beginning(config: Config, now: datetime) -> RunInfo:
    """Of a run that has done nothing yet."""
    return RunInfo(
        name=config.name,
        status="running",
        seed=config.seed,
        versions=_versions(),
        started=now.isoformat(timespec="seconds"),
        finished=None,
        wall_s=0.0,
        error=None,
        restarts=(),
        summary=Summary(),
    )


def _versions() -> dict[str, str]:
    versions = {"python": python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # not every part of FogTune needs every package
            continue
    return versions
