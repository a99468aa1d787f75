"""Joining a cluster that lets in only those who have its token, as `ray start` makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fogtune.actors.joining import _has_token

JOIN = """
import sys
from fogtune.actors.joining import join
join(sys.argv[1], "test", print)
import ray
print(len(ray.nodes()), "machine")
"""


def test_a_token_that_is_at_hand_is_used(ray_head: Callable[..., AbstractContextManager[str]], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret" * 8)
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    environment |= {"RAY_AUTH_TOKEN_PATH": str(token)}
    small = ("--num-cpus=1", "--include-dashboard=false", f"--object-store-memory={80 * 10**6}")
    with ray_head(environment | {"RAY_AUTH_MODE": "token"}, *small) as address:
        joined = subprocess.run(
            [sys.executable, "-c", JOIN, address], env=environment, capture_output=True, text=True, timeout=60
        )
    assert joined.stdout.splitlines()[-1] == "1 machine", joined.stderr


def test_where_ray_finds_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert not _has_token()
    (tmp_path / "token").touch()
    assert _has_token()
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not _has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert _has_token()
