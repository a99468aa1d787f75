"""The registry of published versions: finds, verifies and loads what a run has published. Safetensors only, no Ray."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from fogtune.platform.aggregation import Tensors
from fogtune.platform.errors import InputError
from fogtune.platform.run.checkpoint import file_sha256

_NAME = re.compile(r"^v(\d+)$")


@dataclass(frozen=True)
class PublishedVersion:
    """One version, every file of which matched its hash."""

    number: int
    manifest: Mapping[str, Any]
    """As in `manifest.json`: run, round, backbone, modules, tasks."""
    modules: Mapping[tuple[str, str], Tensors]
    """(node, module) -> tensors; the node is the cloud, or for modules averaged below it a fog node or a device."""


class Registry:
    """The published versions of a run."""

    def __init__(self, run: Path) -> None:
        self._directory = run / "modules"

    def versions(self) -> tuple[int, ...]:
        """Numbers of the versions, ascending; a version is a round."""
        names = [path.name for path in self._directory.iterdir()] if self._directory.is_dir() else []
        return tuple(sorted(int(match[1]) for name in names if (match := _NAME.match(name))))

    def load(self, number: int) -> PublishedVersion:
        """Read a version.

        Raises:
            InputError: there is no such version, its manifest is damaged, or a file does not match its hash.
        """
        directory = self._directory / f"v{number}"
        if number not in self.versions():
            known = ", ".join(f"v{known}" for known in self.versions()) or "none"
            raise InputError(str(directory), f"no such version; published: {known}")
        try:
            manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
            modules = {
                (entry["node"], entry["module"]): _verified(directory, entry["file"], entry["sha256"])
                for entry in manifest["modules"]
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(str(directory), f"damaged version ({type(error).__name__}: {error})") from error
        return PublishedVersion(number, manifest, modules)


def _verified(directory: Path, name: str, sha256: str) -> Tensors:
    file = (directory / name).resolve()
    if not file.is_relative_to(directory.resolve()):
        raise InputError(str(directory / "manifest.json"), f"file {name!r} lies outside the version")
    if file_sha256(file) != sha256:
        raise InputError(str(file), "the file does not match the sha256 in manifest.json")
    return load_file(file)
