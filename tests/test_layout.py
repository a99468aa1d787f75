"""The four top-level folders and their symlinks (docs/architecture.md, "Why the symlinks")."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("actors", "pipelines", "platform", "serve")


def python(code: str) -> str:
    """What a fresh interpreter, started in the repository's root, prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_no_regular_package(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists(), "it would shadow the standard library's module"


def test_tests_are_no_packages() -> None:
    assert [str(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_link_is_relative_and_resolves(folder: str) -> None:
    link = ROOT / "src" / "fogtune" / folder
    assert os.readlink(link) == f"../../{folder}"
    assert link.resolve() == ROOT / folder


def test_the_standard_librarys_platform_wins_in_the_root() -> None:
    assert python("import platform; print(platform.system())") in ("Linux", "Darwin", "Windows")


def test_ray_can_be_imported_in_the_root() -> None:
    assert python("import ray; print(ray.__name__)") == "ray"


def test_importing_fogtune_is_light() -> None:
    heavy = python(
        "import sys, fogtune\n"
        "print(*sorted({'torch', 'ray', 'transformers', 'peft', 'datasets', 'pandas', 'plotly'} & sys.modules.keys()))"
    )
    assert heavy == ""


def test_fogtune_is_the_one_of_this_checkout() -> None:
    assert Path(python("import fogtune; print(fogtune.__file__)")).parent == ROOT / "src" / "fogtune"
