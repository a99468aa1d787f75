"""A federation whose nodes are machines: four, each with a network, a disk and a Ray of its own, on this one.

They are network namespaces on a bridge, with a mount namespace each: of the devices' folders a machine sees its own.
Where that is not allowed they are only Rays, each with an address of its own. They talk over TLS, with a token. Nothing
of them is left at the end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

import fogtune
from fogtune.platform.config import Config
from fogtune.platform.config.load import load_config
from fogtune.platform.run import RoundRecord, RunDirectory

NODES = {"cloud": ["held-out"], "fog-0": [], "site-a": ["watch-0", "watch-2"], "site-b": ["watch-1", "watch-3"]}
"""Label of a machine -> the folders that lie there."""
CLI = [sys.executable, "-c", "from fogtune.pipelines.cli import main; main()"]
LOSSES = pytest.mark.skipif("FOGTUNE_CHAOS" not in os.environ, reason="takes minutes; make chaos runs it")
TIMEOUT_S = 150.0
"""For each thing that is waited for; Ray alone takes half a minute on a machine that is busy otherwise."""
WHO_IS_WHERE = """
import json, sys, numpy, ray
ray.init(address=sys.argv[1], log_to_driver=False)
pattern = bytes.fromhex(sys.argv[2])
kept = ray.put(numpy.frombuffer(pattern * 100_000, numpy.uint8))  # what is smaller lies in the process
label = {node["NodeID"]: node["Labels"]["fogtune.io/node"] for node in ray.nodes() if node["Alive"]}
actors = ray._private.state.actors().values()
print(json.dumps({a["Name"]: label[a["Address"]["NodeID"]] for a in actors if a["State"] == "ALIVE"}), flush=True)
sys.stdin.read()
"""


@cache
def isolated() -> bool:
    """Whether this process may make namespaces."""
    made = ["ip", "netns", "add", f"ft{os.getpid()}"], ["unshare", "-m", "true"]
    try:
        able = all(subprocess.run(command, capture_output=True).returncode == 0 for command in made)
    except FileNotFoundError:
        return False
    subprocess.run(["ip", "netns", "delete", f"ft{os.getpid()}"], capture_output=True)
    return able


@dataclass
class Machine:
    """One of the machines."""

    label: str
    folders: Sequence[str]
    number: int
    root: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    """What was started on it."""

    @property
    def namespace(self) -> str:
        return f"ft{os.getpid()}n{self.number}"

    @property
    def address(self) -> str:
        return f"10.213.0.{self.number + 1}" if isolated() else f"127.0.0.{self.number + 2}"

    @property
    def disk(self) -> Path:
        return self.root / "disks" / self.label

    def command(self, *arguments: str) -> list[str]:
        """A command, to be run there: in its network, with its own disk in place of the others'."""
        if not isolated():
            return list(arguments)
        own = self.disk / "data"
        steps = [f"mount --bind {self.disk / 'ray'} {self.root / 'ray'}"]
        steps += [f"mount --bind {self.root / 'data' / name} {own / name}" for name in self.folders]
        steps += [f"mount --rbind {own} {self.root / 'data'}", 'exec "$@"']
        inside = ["unshare", "-m", "sh", "-ec", "; ".join(steps), "sh", *arguments]
        return ["ip", "netns", "exec", self.namespace, *inside]

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command there."""
        secrets = {name: str(self.root / file) for name, file in SECRETS.items()}
        environment = os.environ | secrets | SECURED | {"FOGTUNE_CACHE": str(self.disk / "cache")}
        started = subprocess.Popen(self.command(*arguments), env=environment, text=True, **options)
        self.started.append(started)
        return started

    def everything(self) -> list[psutil.Process]:
        """All processes that run there."""
        if not isolated():
            alive = (psutil.Process(one.pid) for one in self.started if one.poll() is None)
            return [process for one in alive for process in (one, *one.children(recursive=True))]
        inside = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True)
        return [psutil.Process(pid) for pid in map(int, inside.stdout.split()) if psutil.pid_exists(pid)]

    def join(self, head: Machine | None = None) -> None:
        """Start its Ray, and wait until it is up: of several that start at once, some wait for ever."""
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", f"--node-ip-address={self.address}"]
        ray += ["--num-cpus=1", f"--object-store-memory={80 * 10**6}", "--memory=1000000000", "--disable-usage-stats"]
        ray += ["--labels", f"fogtune.io/node={self.label}"]
        if head is None:
            ray += ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self.root / 'ray'}"]
        else:
            ray += [f"--address={head.address}:{PORT}"]
        log = self.disk / "start.log"
        with log.open("w") as file:
            started = self.start(*ray, stdout=file, stderr=subprocess.STDOUT)
        until(lambda: "Ray runtime started" in log.read_text() or started.poll() is not None)
        assert started.poll() is None, log.read_text()

    def die(self) -> None:
        """Kill all that runs there."""
        while processes := [p for p in self.everything() if p.status() != psutil.STATUS_ZOMBIE]:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, 1)
        while self.started:
            self.started.pop().wait(TIMEOUT_S)

    def link(self, state: str) -> None:
        """`up` or `down`."""
        if isolated():
            subprocess.run(["ip", "link", "set", self.namespace, state], check=True)


PORT = 6399
SECURED = {"RAY_AUTH_MODE": "token", "RAY_USE_TLS": "1"} | {
    # A machine that is gone is noticed after seconds, not after a minute.
    f"RAY_health_check_{name}": value
    for name, value in {"period_ms": "1000", "timeout_ms": "5000", "failure_threshold": "5"}.items()
}
SECRETS = {
    "RAY_AUTH_TOKEN_PATH": "token",
    "RAY_TLS_SERVER_CERT": "tls.crt",
    "RAY_TLS_SERVER_KEY": "tls.key",
    "RAY_TLS_CA_CERT": "ca.crt",
}


def until(condition: Callable[[], object]) -> None:
    """Wait for something."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.1)


def make_secrets(root: Path, addresses: Sequence[str]) -> None:
    """A token, and certificates as docs/howto/cluster.md makes them."""
    (root / "token").write_text("s3cret" * 8)
    (root / "tls.ext").write_text(f"subjectAltName={','.join(f'IP:{one}' for one in {*addresses, '127.0.0.1'})}\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=fogtune-ca -keyout ca.key -out ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=fogtune -keyout tls.key -out tls.csr",
        "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile tls.ext -out tls.crt",
    ):
        subprocess.run(["openssl", *command.split()], cwd=root, check=True, capture_output=True)


@contextmanager
def network(machines: Iterable[Machine]) -> Iterator[None]:
    """Namespaces on a bridge, for as long as the block lasts."""
    bridge = f"ft{os.getpid()}br"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for machine in machines:
            name = machine.namespace
            ip("netns", "add", name)
            ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", name, "master", bridge, "up")
            ip("-n", name, "address", "add", f"{machine.address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for machine in machines:
            machine.die()
            subprocess.run(["ip", "netns", "delete", machine.namespace], capture_output=True)
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True)


@contextmanager
def on_loopback(machines: Iterable[Machine]) -> Iterator[None]:
    """No network; all that runs on the machines ends with the block."""
    try:
        yield
    finally:
        for machine in machines:
            machine.die()


@pytest.fixture(scope="module")
def machines(own_folders: Callable[..., Config], ray_folder: Callable[[], Path]) -> Iterator[dict[str, Machine]]:
    """Four machines with Ray, by their labels."""
    root = ray_folder()
    made = {label: Machine(label, NODES[label], i, root) for i, label in enumerate(NODES)}
    own_folders(root / "data")
    (root / "ray").mkdir()
    for machine in made.values():
        for folder in ("ray", "cache", "data", *(f"data/{name}" for name in machine.folders)):
            (machine.disk / folder).mkdir(parents=True, exist_ok=True)
    make_secrets(root, [machine.address for machine in made.values()])
    with network(made.values()) if isolated() else on_loopback(made.values()):
        head, *others = made.values()
        head.join()
        for machine in others:
            machine.join(head)
        yield made


@pytest.fixture
def config(machines: dict[str, Machine], own_folders: Callable[..., Config]) -> Callable[..., Path]:
    """Writes a configuration on the machines' folders, whose rounds take a while."""
    root = machines["cloud"].root

    def write(*overrides: str) -> Path:
        heads = 'federation.modules=[{"match": "head/*", "scope": "fog"}]'  # else the fog node would have no actor
        made = own_folders(root / "data", heads, f"output.directory={root / 'runs'}", "local.epochs=60", *overrides)
        (root / "config.yaml").write_text(json.dumps(made.model_dump(mode="json")))
        return root / "config.yaml"

    return write


@contextmanager
def running(head: Machine, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A command of FogTune on the cloud's machine, whose errors are piped."""
    words = [*CLI, *map(str, arguments), "--address", f"{head.address}:{PORT}"]
    with head.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True) as started:
        try:
            yield started
        finally:
            started.kill()


def rounds(head: Machine, name: str) -> list[RoundRecord]:
    """Those that the run of a name has finished."""
    runs = list((head.root / "runs").glob(f"{name}-*"))
    return RunDirectory.open(runs[0]).records() if runs else []


def left_in_process(config: Path, left: Callable[[RunDirectory], Any]) -> Any:
    """What the same configuration leaves without Ray, where one sees all folders."""
    with TemporaryDirectory() as folder:
        overrides = ["execution.runner=local", "execution.address=null", f"output.directory={folder}"]
        return left(fogtune.run(load_config(config, overrides)).directory)


def stores(machine: Machine) -> bytes:
    """What is, and was, in a machine's object store: the files, without names, that its raylet keeps in memory."""
    found = b""
    for process in machine.everything():
        if process.name() == "raylet":
            for file in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(FileNotFoundError):  # a socket that is closed by now
                    if "plasma" in os.readlink(file):
                        found += file.read_bytes()
    return found


def memory(process: psutil.Process) -> Iterator[bytes]:
    """What a process may write to in its memory."""
    with open(f"/proc/{process.pid}/mem", "rb", 0) as file:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            bounds, access, *_ = line.split()
            if access.startswith("rw"):
                start, end = (int(bound, 16) for bound in bounds.split("-"))
                with suppress(OSError):  # what a driver has mapped
                    file.seek(start)
                    yield file.read(end - start)


def holders(machines: Iterable[Machine], pattern: bytes) -> set[str]:
    """Labels of those machines of which an actor has some bytes in its memory."""
    return {
        machine.label
        for machine in machines
        for process in machine.everything()
        if (process.cmdline() or [""])[0].startswith("ray::") and any(pattern in part for part in memory(process))
    }


def samples(root: Path, device: str) -> bytes:
    """Some numbers of a device's first sample."""
    series: np.ndarray[Any, Any] = np.load(root / "data" / device / "0.npy")
    return series.tobytes()[:48]


def test_actors_run_on_their_machines_and_samples_stay_there(
    machines: dict[str, Machine], config: Callable[..., Path], left: Callable[[RunDirectory], Any]
) -> None:
    head = machines["cloud"]
    path = config("name=whole", "rounds=6")
    control = np.random.default_rng(1).bytes(48)
    address = f"{head.address}:{PORT}"
    with running(head, "run", path) as run:
        until(lambda: run.poll() is not None or rounds(head, "whole"))
        run.send_signal(signal.SIGSTOP)  # it asks for no more rounds
        look = head.start(
            sys.executable, "-c", WHO_IS_WHERE, address, control.hex(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with look:
            assert look.stdout
            where = json.loads(look.stdout.readline())
            assert {name: label for name, label in where.items() if label != "cloud"} == {
                "fog/0": "fog-0",
                "devices/site-a/0": "site-a",
                "devices/site-b/0": "site-b",
            }
            assert {"coordinator", "evaluator/0"} <= where.keys()
            assert control in stores(head)
            assert holders(machines.values(), samples(head.root, "watch-0")) == {"site-a"}
            look.communicate("")
        run.send_signal(signal.SIGCONT)
        machines["site-b"].link("down")
        time.sleep(2)
        machines["site-b"].link("up")
        _, errors = run.communicate(timeout=TIMEOUT_S)
        assert run.returncode == 0, errors
    kept = b"".join(map(stores, machines.values()))
    assert len(kept) >= len(machines) * 80 * 10**6
    assert not any(samples(head.root, device) in kept for device in ("watch-0", "watch-1", "watch-2", "watch-3"))
    (directory,) = (head.root / "runs").glob("whole-*")
    done = RunDirectory.open(directory)
    assert not done.info.restarts
    assert left(done) == left_in_process(path, left)


@LOSSES
def test_a_round_goes_on_without_a_machine_that_comes_back_later(
    machines: dict[str, Machine], config: Callable[..., Path]
) -> None:
    head, lost = machines["cloud"], machines["site-b"]
    with running(head, "run", config("name=back", "rounds=10000", "federation.quorum=0.5")) as run:

        def missing() -> list[int]:
            assert run.poll() is None, run.communicate()[1]
            return [record.updates_lost for record in rounds(head, "back")]

        until(lambda: len(missing()) > 1)
        lost.die()
        until(lambda: missing()[-3:] == [2, 2, 2])
        lost.join(head)
        until(lambda: missing()[-3:] == [0, 0, 0])
        os.killpg(run.pid, signal.SIGTERM)
        run.communicate(timeout=TIMEOUT_S)


@LOSSES
@pytest.mark.parametrize(
    ("label", "nodes", "why"),
    [
        ("site-b", "watch-1, watch-3", "2 of 4 updates arrived, below federation.quorum 1"),
        (
            "fog-0",
            "fog-0",
            "nothing could be started again: execution.placement: no machine of the cluster is labelled",
        ),
    ],
)
def test_it_ends_without_a_machine_and_is_resumed_when_that_is_back(
    machines: dict[str, Machine],
    config: Callable[..., Path],
    left: Callable[[RunDirectory], Any],
    label: str,
    nodes: str,
    why: str,
) -> None:
    head, lost = machines["cloud"], machines[label]
    name = f"without-{label}"
    path = config(f"name={name}", "rounds=8")
    with running(head, "run", path) as run:
        until(lambda: run.poll() is not None or rounds(head, name))
        lost.die()
        _, errors = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 1, errors
    assert why in errors
    (directory,) = (head.root / "runs").glob(f"{name}-*")
    with running(head, "resume", directory) as run:
        _, errors = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 2
    line = f"execution.placement: no machine of the cluster is labelled fogtune.io/node={label}, for {nodes}; "
    assert errors == f"error: {line}labels there: {', '.join(sorted(NODES.keys() - {label}))}\n"
    lost.join(head)
    with running(head, "resume", directory) as run:
        _, errors = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 0, errors
    assert left(RunDirectory.open(directory)) == left_in_process(path, left)
