"""The registry of published versions: what a run has published, verified and loaded. Safetensors only, no Ray.

registry = Registry(Path("runs/..."))
version = registry.read(8)          # its manifest
registry.verify(version)            # every file matches its sha256, or InputError
read_module(version.entries["cloud", "head/vqa"])
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError

from fogtune.platform.config import Config, FeaturesEncoder, SeriesEncoder
from fogtune.platform.config.load import load_config
from fogtune.platform.errors import InputError
from fogtune.platform.topology import Tree
from fogtune.platform.topology_build import build_tree

if TYPE_CHECKING:
    from fogtune.platform.aggregation import Tensors

_NAME = re.compile(r"^v(\d+)$")


@dataclass(frozen=True)
class Input:
    """What a task reads of one modality."""

    name: str
    kind: Literal["text", "image", "series"]
    channels: int | None
    """Of a series."""


@dataclass(frozen=True)
class TaskInfo:
    """A task as one version has it."""

    name: str
    head: str
    """classification, multilabel or regression."""
    inputs: tuple[Input, ...]
    labels: tuple[str, ...]
    """Empty for regression."""
    metrics: Mapping[str, float]
    """Of the last evaluated round."""


@dataclass(frozen=True)
class Entry:
    """A module's file."""

    module: str
    path: Path
    sha256: str
    name: str
    """What the file is called to whoever asks: `v8/cloud/head/vqa.safetensors`."""


@dataclass(frozen=True)
class Version:
    """One version, as its manifest describes it."""

    number: int
    entries: Mapping[tuple[str, str], Entry]
    """(node, module) -> file; the node is the cloud, or for modules averaged below it a fog node or a device."""
    tasks: Mapping[str, TaskInfo]
    written_ns: int
    """When its manifest was: a resumed run publishes versions again."""


class Unreadable(InputError):
    """A file cannot be read now, but perhaps later."""


class Registry:
    """The published versions of a run."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._cached = lru_cache(maxsize=8)(self._read)

    @cached_property
    def config(self) -> Config:
        """The run's configuration. InputError if it is missing or damaged."""
        return load_config(self.run / "config.yaml")

    @cached_property
    def tree(self) -> Tree:
        """The run's nodes."""
        return build_tree(self.config)

    def versions(self) -> tuple[int, ...]:
        """Numbers of the versions, ascending; a version is a round."""
        directory = self.run / "modules"
        names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
        return tuple(sorted(int(match[1]) for name in names if (match := _NAME.match(name))))

    def read(self, number: int) -> Version:
        """A version's manifest. InputError: there is no such version, or its manifest is damaged."""
        written_ns = self.written_ns(number)
        if written_ns is None:
            known = ", ".join(f"v{known}" for known in self.versions() if known != number) or "none"
            raise InputError(f"v{number}", f"no such version; published: {known}")
        return self._cached(self._directory(number), number, written_ns)

    def written_ns(self, number: int) -> int | None:
        """When a version's manifest was written; None if there is no such version."""
        try:
            return (self._directory(number) / "manifest.json").stat().st_mtime_ns
        except OSError:
            return None

    def _directory(self, number: int) -> Path:
        return self.run / "modules" / f"v{number}"

    def newest(self) -> Version | None:
        """The newest version with a manifest that can be read; None if there is none."""
        for number in reversed(self.versions()):
            with suppress(InputError):
                return self.read(number)
        return None

    def verify(self, version: Version) -> None:
        """InputError unless every file of the version matches its hash."""
        for entry in version.entries.values():
            _verified(entry)

    def _read(self, directory: Path, number: int, written_ns: int) -> Version:
        try:
            manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
            entries = {(found["node"], found["module"]): _entry(directory, found) for found in manifest["modules"]}
            tasks = {name: self._task(name, found) for name, found in manifest["tasks"].items()}
        except OSError as error:
            raise Unreadable(f"v{number}/manifest.json", f"cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"v{number}", f"damaged version ({type(error).__name__}: {error})") from error
        return Version(number, entries, tasks, written_ns)

    def _task(self, name: str, found: Mapping[str, Any]) -> TaskInfo:
        inputs = tuple(self._input(modality) for modality in found["inputs"])
        metrics = {str(metric): float(value) for metric, value in found["metrics"].items()}
        return TaskInfo(name, found["head"], inputs, tuple(found["labels"]), metrics)

    def _input(self, modality: str) -> Input:
        encoder = self.config.model.encoders.get(modality)
        if encoder is None:
            return Input(modality, "text", None)
        if isinstance(encoder, SeriesEncoder | FeaturesEncoder):
            return Input(modality, "series", encoder.channels)
        return Input(modality, "image", None)


def read_module(entry: Entry) -> Tensors:
    """The tensors of a module.

    Raises:
        InputError: its file is missing or does not match its hash: what is loaded is what was hashed.
    """
    from safetensors.torch import load  # with torch, a second that whoever only lists or chooses versions need not wait

    try:
        return load(_verified(entry))
    except SafetensorError as error:
        raise InputError(entry.name, f"not safetensors ({error})") from error


def _verified(entry: Entry) -> bytes:
    try:
        content = entry.path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(entry.name, "the file is missing") from error
    except OSError as error:
        raise Unreadable(entry.name, f"cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise InputError(entry.name, "the file does not match the sha256 in manifest.json")
    return content


def _entry(directory: Path, found: Mapping[str, Any]) -> Entry:
    name = PurePosixPath(found["file"])
    if name.is_absolute() or ".." in name.parts:
        raise InputError(f"{directory.name}/manifest.json", f"file {str(name)!r} lies outside the version")
    return Entry(found["module"], directory / name, found["sha256"], f"{directory.name}/{name}")
