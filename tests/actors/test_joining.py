"""Joining a cluster that lets in only those who have its token, as `ray start` makes them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
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


def test_a_token_that_is_at_hand_is_used(ray_folder: Callable[[], Path]) -> None:
    folder = ray_folder()
    token = folder / "token"
    token.write_text("s3cret" * 8)
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    environment |= {"RAY_AUTH_TOKEN_PATH": str(token)}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    start = ["start", "--head", f"--port={port}", "--block", "--num-cpus=1", "--include-dashboard=false"]
    start += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}", f"--object-store-memory={80 * 10**6}"]
    with (folder / "out").open("w") as out:
        ray = str(Path(sys.executable).parent / "ray")
        head = subprocess.Popen([ray, *start], env=environment | {"RAY_AUTH_MODE": "token"}, stdout=out, stderr=out)
    try:
        deadline_s = time.monotonic() + 60
        while "Ray runtime started" not in (folder / "out").read_text():
            assert head.poll() is None, (folder / "out").read_text()
            assert time.monotonic() < deadline_s, "waited too long"
            time.sleep(0.1)
        joined = subprocess.run(
            [sys.executable, "-c", JOIN, f"127.0.0.1:{port}"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert joined.stdout.splitlines()[-1] == "1 machine", joined.stderr
    finally:
        head.terminate()
        head.wait(60)


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
