"""What the documentation shows works: its commands and Python code run, its files pass, its links lead somewhere.

Blocks of a page run from top to bottom, in a temporary folder of the page that holds a copy of examples/. A comment
right before a block changes that:

    <!-- test: skip (why) -->     the block does not run; the reason is part of it
    <!-- test: file NAME -->      the block, of any language, is written to NAME for the blocks after it

Without a comment, ```bash and ```python blocks run, others are only shown.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SERVE = ROOT / "examples/serve.yaml"  # Ray Serve's, which tests/serve/test_serve_config.py deploys
EXAMPLES = sorted({*(ROOT / "examples").glob("*.yaml")} - {SERVE})
BLOCK = re.compile(r"(?:^<!-- test: (?P<mark>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]*))?\)")
TIMEOUT_S = 240


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    line: int
    mark: str | None
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks, in order."""
    text = page.read_text()
    return [
        Block(text.count("\n", 0, found.start()) + 1, found["mark"], found["language"], found["text"])
        for found in BLOCK.finditer(text)
    ]


def runs(block: Block) -> bool:
    return block.mark is None and block.language in ("bash", "python")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_marks_are_understood(page: Path) -> None:
    for block in blocks(page):
        assert block.mark is None or re.fullmatch(r"skip \(.+\)|file [\w./-]+", block.mark), f"line {block.line}"
    # A comment that no block follows directly would be without effect.
    assert page.read_text().count("<!-- test:") == sum(block.mark is not None for block in blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(runs, blocks(page)))], ids=name_of)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    shells = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    for block in blocks(page):
        if block.mark is not None and block.mark.startswith("file "):
            path = tmp_path / block.mark.removeprefix("file ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif runs(block):
            done = subprocess.run(
                [*shells[block.language], block.text],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
            assert done.returncode == 0, f"line {block.line}:\n{block.text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.finditer(BLOCK.sub("", page.read_text())):
        target = page.parent / link["path"] if link["path"] else page
        assert target.exists(), f"{link[0]} leads nowhere"
        if link["anchor"] and target.suffix == ".md":
            assert link["anchor"] in anchors(target), f"{link[0]}: no such heading"


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_examples_pass_the_check(example: Path) -> None:
    command = [str(Path(sys.executable).parent / "fogtune"), "config", "check", str(example)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
