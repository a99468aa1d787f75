"""Servers in processes of their own, each with a Ray of its own, for as long as a block lasts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

PLAIN = Path(__file__).with_name("plain.py")


@contextmanager
def fogtune(run: Path, *settings: str) -> Iterator[str]:
    """`fogtune serve`, with `field=value` settings."""
    port = _free_port()
    command = [str(Path(sys.executable).with_name("fogtune")), "serve", str(run), "--port", str(port)]
    with _running([*command, *(part for found in settings for part in ("--set", found))], port, "/v2/health/ready"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def plain(run: Path) -> Iterator[str]:
    """The peer."""
    port = _free_port()
    with _running([sys.executable, str(PLAIN), str(run), str(port)], port, "/docs"):
        yield f"http://127.0.0.1:{port}"


def resident_bytes(deployment: str) -> int:
    """Memory of the replicas of a deployment of FogTune's, of all servers on this machine."""
    pages = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"ray::ServeReplica:fogtune:{deployment}" in (process / "cmdline").read_text():
                pages += int((process / "statm").read_text().split()[1])
        except OSError:  # it has ended meanwhile
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _running(command: list[str], port: int, ready: str) -> Iterator[None]:
    log = Path(f"/tmp/fogtune-bench-{port}.log")
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        until_s = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}{ready}"):
            if process.poll() is not None or time.monotonic() > until_s:
                raise SystemExit(f"{' '.join(command)} did not come up:\n{log.read_text()}")
            time.sleep(0.5)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        log.unlink()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
