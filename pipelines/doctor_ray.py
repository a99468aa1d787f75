"""`fogtune doctor`, what concerns Ray: is this machine fit to be one of a cluster, and is a cluster fit for FogTune."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from fogtune.platform.errors import InputError
from fogtune.platform.wording import some

from . import readable
from .checking import Check, free_memory_bytes

PORTS = {6379: "Ray's head", 8265: "Ray's dashboard", 10001: "Ray's clients", 8000: "fogtune serve"}
"""Port -> who listens there, unless told otherwise."""
OPEN_FILES = 8192
"""What Ray recommends for a cluster."""
STORE_SHARE = 0.3
"""Of the memory that is free, that Ray takes for its object store, unless told otherwise."""
START_TIMEOUT_S = 120
TASK_TIMEOUT_S = 60
"""How long a machine of a cluster may take to say which versions it has."""

_START_RAY = """
import ray
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7
ray.shutdown()
"""

Versions = Mapping[str, str]
"""python, ray, fogtune -> version; `none` where it is not installed."""


def ports(expected: Mapping[int, str] = PORTS) -> Check:
    """Those that `ray start --head` and `fogtune serve` listen on by default are free, or who has them."""
    taken = [f"{port} ({what}) is taken by {_holder(port)}" for port, what in expected.items() if not _free(port)]
    if taken:
        remedy = "fine if that is your Ray; else end it, or choose others: ray start --port=, --dashboard-port="
        return Check("ports", "warning", ", ".join(taken), f"{remedy}, fogtune serve --port")
    return Check("ports", "ok", f"{', '.join(map(str, expected))} are free")


def open_files() -> Check:
    """Files and connections that a process may have open; Ray raises the soft limit to the hard one by itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        remedy = f"raise it in /etc/security/limits.conf, or with docker run --ulimit nofile={OPEN_FILES}"
        return Check("open files", "warning", f"at most {hard} a process", remedy)
    return Check("open files", "ok", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard} a process")


def shared_memory(path: Path = Path("/dev/shm")) -> Check:
    """Room for Ray's object store in memory that processes share; what does not fit is on disk, and slow."""
    try:
        found = os.statvfs(path)
    except OSError:
        return Check("shared memory", "warning", f"no {path} here", "Ray keeps objects on disk, which is slower")
    free = found.f_bavail * found.f_frsize
    wanted = int(STORE_SHARE * (free_memory_bytes() or 0))
    if free < wanted:
        remedy = f"docker run --shm-size={wanted / 1e9:.1f}g, or ray start --object-store-memory={int(0.9 * free)}"
        text = f"{readable.size(free)} free in {path}, less than the {readable.size(wanted)} of Ray's object store"
        return Check("shared memory", "warning", text, remedy)
    return Check("shared memory", "ok", f"{readable.size(free)} free in {path}")


def start() -> Check:
    """Ray starts and runs a task, in a process of its own."""
    remedy = "use --local meanwhile; see the newest /tmp/ray/session_*/logs"
    try:
        # Out of the environment, so that a cluster named there is not joined.
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-c", _START_RAY]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired:
        return Check("ray", "failure", f"did not start within {START_TIMEOUT_S} s", remedy)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Check("ray", "failure", f"does not start: {last}", remedy)
    return Check("ray", "ok", "starts and runs a task")


def cluster(address: str) -> Iterator[Check]:
    """The cluster at an address: can it be joined, what has it, and is everything of the same version."""
    import ray

    from fogtune.actors.joining import join
    from fogtune.actors.versions import versions

    ours = not ray.is_initialized()
    try:
        if ours:
            try:
                join(address, "doctor", lambda _: None)
            except InputError as error:
                problem, _, remedy = error.problem.partition("; ")
                yield Check("cluster", "failure", problem, remedy or "ray start --head on its first machine")
                return
        found = versions(TASK_TIMEOUT_S)
        processors = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        text = f"{len(found)} machine{'s' * (len(found) != 1)}, {processors} processors"
        if processors:
            yield Check("cluster", "ok", text)
        else:
            yield Check("cluster", "failure", text, "ray start --num-cpus=N on its machines")
        yield same_versions(found)
    finally:
        if ours:
            ray.shutdown()


def same_versions(found: Mapping[str, Versions | None]) -> Check:
    """Whether all machines have the same.

    Args:
        found: machine -> its versions; null where it did not say.
    """
    silent = [machine for machine, versions in found.items() if versions is None]
    if silent:
        text = f"no task ran within {TASK_TIMEOUT_S} s on {some(silent)}"
        return Check("versions", "failure", text, "ray status on that machine; ray stop and ray start there")
    by_versions: dict[str, list[str]] = {}
    for machine, versions in found.items():
        text = ", ".join(f"{name} {version}" for name, version in (versions or {}).items())
        by_versions.setdefault(text, []).append(machine)
    if len(by_versions) > 1:
        text = "; ".join(f"{some(machines)}: {versions}" for versions, machines in by_versions.items())
        return Check("versions", "failure", text, "make setup in the same checkout on all, then start Ray again there")
    (text,) = by_versions
    if any("none" in (versions or {}).values() for versions in found.values()):
        return Check("versions", "failure", text, "make setup on all of them, and ray start from that .venv")
    return Check("versions", "ok", f"{text} on all")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    """The program that listens on a port; the kernel tells only root of other users'."""
    import psutil  # type: ignore[import-untyped]

    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.NoSuchProcess:
                break
    return "another user's process"
