"""A wheel, built from the source distribution and installed in a clean environment outside the repository, works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("actors", "pipelines", "platform", "serve")
BUILD_SDIST = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"


def call(*command: str | Path, cwd: Path, timeout_s: float = 120) -> str:
    """What a command prints; it must succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves files in the tree that it builds, and packages those it finds there."""
    tmp = tmp_path_factory.mktemp("wheel")
    tree = tmp / "tree"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", *FOLDERS):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    call(sys.executable, "-c", BUILD_SDIST, tmp, cwd=tree)
    (sdist,) = tmp.glob("*.tar.gz")
    pip_wheel = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation")
    call(*pip_wheel, "--wheel-dir", tmp, sdist, cwd=tmp)
    (built,) = tmp.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts' folder of a new environment with the wheel and this environment's packages, but not our sources."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False)
    scripts = home / "bin"
    pip_install = (sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--no-deps", "--no-index")
    call(*pip_install, wheel, cwd=home)
    # Named in a .pth file, a folder's own .pth files are not read: the editable installation of the sources is unseen.
    site_packages = call(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home)
    Path(site_packages.strip(), "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def test_the_wheel_holds_every_file_of_the_four_folders(wheel: Path) -> None:
    packaged = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("fogtune/")}
    sources = {
        f"fogtune/{path.relative_to(ROOT)}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".md")
    }
    assert packaged == sources | {"fogtune/__init__.py", "fogtune/py.typed"}
    assert {"fogtune/platform/config/root.py", "fogtune/serve/page/index.html"} <= packaged


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"fogtune", "fogtune-0.1.0.dist-info"}


def test_the_wheel_names_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "License-Expression: Apache-2.0" in archive.read("fogtune-0.1.0.dist-info/METADATA").decode()
        assert b"Apache License" in archive.read("fogtune-0.1.0.dist-info/licenses/LICENSE")


def test_the_installed_package_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    code = "import fogtune, fogtune.platform.config as c; print(fogtune.__file__, c.__file__, sep='\\n')"
    for path in call(installed / "python", "-c", code, cwd=tmp_path).splitlines():
        assert Path(path).is_relative_to(installed.parent)


def test_the_installed_command_explains_itself(installed: Path, tmp_path: Path) -> None:
    assert "run" in call(installed / "fogtune", "--help", cwd=tmp_path)


def test_the_installed_command_checks_a_configuration(installed: Path, tmp_path: Path) -> None:
    call(installed / "fogtune", "config", "check", "smoke", cwd=tmp_path)


def test_the_installed_command_fine_tunes(installed: Path, tmp_path: Path) -> None:
    call(installed / "fogtune", "run", "smoke", "--local", cwd=tmp_path, timeout_s=300)
    (report,) = tmp_path.glob("runs/*/report.html")
    assert report.stat().st_size > 10_000


def needed_by(requirements: list[str], extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Names, with their extras, of the requirements that hold on this machine."""
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints" / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if not line.startswith("#")} | {"fogtune"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo = list(needed_by(project["dependencies"] + project["optional-dependencies"]["dev"], frozenset()))
    needed: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = package = todo.pop()
        if package not in needed:
            needed.add(package)
            todo += needed_by(metadata.requires(name) or [], extras)
    assert {name for name, _ in needed} - pinned == set()
