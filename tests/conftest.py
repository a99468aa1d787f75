"""What all tests share: no network, repeatable random examples, a tiny federation on real data and weights and ever
smaller ones without a backbone, services to ask, and one Ray for all who need it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from hypothesis import settings

from fogtune.pipelines.serving import RAY_ENVIRONMENT
from fogtune.platform.config import Config
from fogtune.platform.run import RoundRecord, RunDirectory

if TYPE_CHECKING:
    from fogtune.platform.federation.snapshot import Snapshot

# Inherited by Ray's workers and by the commands that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
# Read when torch is first imported, so no import above may bring it. On tensors this small, threads of one process only
# wait for each other: beside another busy process the tests would take 30 times as long.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ |= RAY_ENVIRONMENT

# No deadline: how long an example takes is the machine's business. No database: it would make runs differ.
settings.register_profile("fogtune", deadline=None, derandomize=True, database=None)
settings.load_profile("fogtune")

LOGIC = Path(__file__).parent / "platform"
"""Many short tests."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What processes that test side by side (`-n`) get: one of them all that needs the shared Ray, the others file by
    file, first what takes long."""

    def needs_ray(item: pytest.Item) -> bool:
        return "shared_ray" in getattr(item, "fixturenames", ())

    items.sort(key=lambda item: (not needs_ray(item), item.path.is_relative_to(LOGIC)))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if needs_ray(item) else item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests compute they keep for one another, and not in the user's cache; Ray's workers inherit it."""
    os.environ["FOGTUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Callable[[], Path]]:
    """Makes folders for Rays of their own: the path of a socket has 107 characters at most, and below pytest's own
    folders, whose names count runs and processes, some had more."""
    with ExitStack() as made:
        yield lambda: Path(made.enter_context(tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True)))


@pytest.fixture(scope="session")
def ray_head(ray_folder: Callable[[], Path]) -> Callable[..., AbstractContextManager[str]]:
    """Starts, for a block, a cluster of one machine as `ray start` does, with more options and another environment;
    gives its address. Its agent has a port of its own: else it had no log pages beside another Ray."""

    @contextmanager
    def started(environment: dict[str, str], *options: str) -> Iterator[str]:
        folder = ray_folder()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        words = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", *options]
        words += ["--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0", f"--temp-dir={folder}"]
        with (folder / "out").open("w") as out:
            head = subprocess.Popen(words, env=environment, stdout=out, stderr=out)
        try:
            deadline_s = time.monotonic() + 60
            while "Ray runtime started" not in (folder / "out").read_text():
                assert head.poll() is None, (folder / "out").read_text()
                assert time.monotonic() < deadline_s, "waited too long"
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(60)

    return started


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Config]:
    """Makes the preset `smoke` with five devices and few samples, four rounds of a third of a second, in process.

    Devices by fog node: `fog-0` has watch-0, reader-0 and coach-0, `fog-1` has watch-1 and reader-1.
    """
    from fogtune.pipelines.presets import preset

    changes = [
        "rounds=4",
        "execution.runner=local",
        "devices.0.count=2",
        "sources.watch.samples_per_device=12",
        "sources.watch.held_out.limit=12",
        "sources.news.samples_per_device=10",
        "sources.news.held_out.limit=12",
        "model.backbone.max_text_tokens=8",
        "model.experts.width=4",
        "local.batch_size=4",
    ]

    def make(*overrides: str) -> Config:
        return preset("smoke", *changes, *overrides)

    return make


@pytest.fixture(scope="session")
def watches(tiny: Callable[..., Config]) -> Callable[..., Config]:
    """Makes `tiny` of five watches and without a backbone, for what processes do: they are there in half the time, as
    they need not import transformers.

    Devices by fog node: `fog-0` has watch-0, watch-2 and watch-4, `fog-1` has watch-1 and watch-3.
    """
    changes = (
        'devices=[{"name": "watch", "count": 5, "modalities": ["imu"], "tasks": ["exercise"]}]',
        'sources={"watch": {"kind": "embedded", "asset": "seglearn", "partition": {"kind": "natural"}, '
        '"samples_per_device": 12, "held_out": {"groups": ["8"], "limit": 12}}}',
        'tasks={"exercise": {"source": "watch", "inputs": ["imu"], "label": "exercise"}}',
        "model={backbone: null, width: 8, adapter: null, encoders: {imu: {kind: features, channels: 6}}}",
    )
    return lambda *overrides: tiny(*changes, *overrides)


@pytest.fixture(scope="session")
def bare(watches: Callable[..., Config]) -> Callable[..., Config]:
    """Makes `tiny` without a backbone: the same devices, which all have series, and readers tell the side. For what
    depends on who has which modules, and not on what these are."""
    groups = {
        "watch": {"device_class": "watch", "count": 2, "tasks": ["exercise"]},
        "reader": {"count": 2, "tasks": ["side"]},
        "coach": {"device_class": "gateway", "count": 1, "tasks": ["exercise", "side"]},
    }
    devices = [{"name": name, "modalities": ["imu"], **group} for name, group in groups.items()]
    tasks = {name: {"source": "watch", "inputs": ["imu"], "label": name} for name in ("exercise", "side")}
    return lambda *overrides: watches(f"devices={json.dumps(devices)}", f"tasks={json.dumps(tasks)}", *overrides)


@pytest.fixture(scope="session")
def images() -> tuple[str, ...]:
    """Overrides that make `tiny` two devices that answer questions: camera-0 sees images, reader-0 has texts alone."""
    return (
        'devices=[{"name": "camera", "count": 1, "modalities": ["text", "image"], "tasks": ["vqa"]}, '
        '{"name": "reader", "count": 1, "modalities": ["text"], "tasks": ["vqa"]}]',
        'sources={"easy-vqa": {"kind": "embedded", "asset": "easy-vqa", "held_out": {"split": "test", "limit": 8}, '
        '"partition": {"kind": "iid"}, "samples_per_device": 10}}',
        'tasks={"vqa": {"source": "easy-vqa", "inputs": ["text", "image"], "label": "answer"}}',
        'model.encoders={"image": {"kind": "image", "size_px": 64}}',
    )


@pytest.fixture(scope="session")
def own_folders(tiny: Callable[..., Config]) -> Callable[..., Config]:
    """Makes folders below a path, with eight series of each of four watches, and as many held out; and `tiny` on them,
    without a backbone. The watches are of two machines, site-a (watch-0, watch-2) and site-b."""

    def make(root: Path, *overrides: str) -> Config:
        generator = np.random.default_rng(0)
        for name in ("watch-0", "watch-1", "watch-2", "watch-3", "held-out"):
            (root / name).mkdir(parents=True, exist_ok=True)
            rows = [{"log": f"{i}.npy", "what": ("walk", "sit")[i % 2]} for i in range(8)]
            for i, row in enumerate(rows):
                np.save(root / name / row["log"], generator.normal(i % 2, size=(16, 3)).astype(np.float32))
            (root / name / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {
            "kind": "folder",
            "path": f"{root}/{{device}}",
            "columns": {"imu": "log"},
            "labels": {"what": "what"},
            "held_out": {"path": f"{root}/held-out"},
        }
        return tiny(
            "topology.tiers.0.count=1",
            'devices=[{"name": "watch", "count": 4, "modalities": ["imu"], "tasks": ["what"]}]',
            f"sources={json.dumps({'walks': source})}",
            'tasks={"what": {"source": "walks", "inputs": ["imu"], "label": "what"}}',
            "model={backbone: null, width: 8, adapter: null, encoders: {imu: {kind: features, channels: 3}}}",
            "execution.placement=labels",
            "execution.machines={site-a: [watch-0, watch-2], site-b: [watch-1, watch-3]}",
            *overrides,
        )

    return make


@pytest.fixture(scope="session")
def served(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds with versions 1 and 2: texts, images and series; adapters and the head of topic a region's,
    prompts a device's own. Not to be changed: `copied` is a copy."""
    from fogtune.pipelines import fine_tune

    easy_vqa = '{"kind": "embedded", "asset": "easy-vqa", "held_out": {"split": "test", "limit": 12}, '
    config = tiny(
        "rounds=2",
        "devices.2.modalities=[imu, text, image]",
        "devices.2.tasks=[exercise, topic, vqa]",
        f'sources.easy-vqa={easy_vqa}"partition": {{"kind": "iid"}}, "samples_per_device": 10}}',
        'tasks.vqa={"source": "easy-vqa", "inputs": ["text", "image"], "label": "answer"}',
        'model.encoders.image={"kind": "image", "size_px": 64}',
        "model.prompts={tokens: 2}",
        "model.interaction_rank=4",
        'federation.modules=[{"match": "adapter/*", "scope": "fog"}, {"match": "head/topic", "scope": "fog"}, '
        '{"match": "prompt/*", "scope": "device"}]',
        f"output.directory={tmp_path_factory.mktemp('served')}",
    )
    done = fine_tune.run(config)
    assert done.status == "completed"
    return done.directory.path


@pytest.fixture
def copied(served: Path, tmp_path: Path) -> Path:
    """A copy of the served run, to be changed."""
    return Path(shutil.copytree(served, tmp_path / "run"))


@pytest.fixture(scope="session")
def listening() -> Callable[..., AbstractContextManager[str]]:
    """Serves an ASGI application on a free port of this machine within a block; gives its URL."""

    @contextmanager
    def listen(app: Any) -> Iterator[str]:
        import uvicorn

        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()

    return listen


@pytest.fixture(scope="session")
def left() -> Callable[[RunDirectory], tuple[list[RoundRecord], dict[str, Any], Any]]:
    """What a run leaves that must not depend on how it came about: rounds, versions with their hashes, the ledger."""
    import pyarrow.parquet as pq

    def found(run: RunDirectory) -> tuple[list[RoundRecord], dict[str, Any], Any]:
        manifests = {
            version.name: json.loads((version / "manifest.json").read_text()) | {"run": ""}
            for version in (run.path / "modules").iterdir()
        }
        ledger = pq.read_table(run.path / "ledger.parquet").to_pylist()
        return [replace(record, wall_s=0.0) for record in run.records()], manifests, ledger

    return found


@pytest.fixture(scope="session")
def alive() -> Callable[[list[psutil.Process]], list[str]]:
    """Commands of those processes that still run; what nobody has reaped yet does not."""

    def running(processes: list[psutil.Process]) -> list[str]:
        found = []
        for process in processes:
            try:
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except psutil.NoSuchProcess:
                continue
        return found

    return running


@pytest.fixture(scope="session")
def same() -> Callable[[Snapshot, Snapshot], bool]:
    """Whether two federations have the same versions at the same nodes, bit for bit."""
    import torch

    def compare(ours: Snapshot, theirs: Snapshot) -> bool:
        return ours.nodes.keys() == theirs.nodes.keys() and all(
            state.versions.keys() == theirs.nodes[node].versions.keys()
            and all(
                torch.equal(tensor, theirs.nodes[node].versions[module][name])
                for module, tensors in state.versions.items()
                for name, tensor in tensors.items()
            )
            for node, state in ours.nodes.items()
        )

    return compare


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """Ray on this machine, started when a test first asks for it; a run uses the Ray that its process has."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()
