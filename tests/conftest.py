"""What all tests share: no network, repeatable random examples, made-up runs for what a person sees, a tiny federation
on real data and weights, cells drawn by hand, and one Ray for all who need it."""

from __future__ import annotations

import hashlib
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from hypothesis import settings

from fogtune.pipelines.serving import RAY_ENVIRONMENT
from fogtune.platform.config import Config, CountedTopology, DeviceGroup, EmbeddedSource, Task, Tier
from fogtune.platform.run import NodeEntry, RoundRecord, RunDirectory

if TYPE_CHECKING:
    from fogtune.platform.federation.snapshot import Snapshot
    from fogtune.platform.network.routing import Cell
    from fogtune.serve.rows import Outcome, Row
    from fogtune.serve.service import PredictRows

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

MakeRun = Callable[..., RunDirectory]

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


@pytest.fixture
def record() -> Callable[..., RoundRecord]:
    """Makes a record; in even rounds an update is lost, round 1 is not evaluated."""

    def make(number: int, rounds: int = 3) -> RoundRecord:
        return RoundRecord(
            round=number,
            rounds=rounds,
            wall_s=1.5,
            virtual_time_s=20.0,
            energy_j=None,
            bytes={"uplink": 1_000_000, "downlink": 2_000_000, "backhaul": 500_000, "d2d": 0},
            participants=4,
            dropped=0,
            updates_lost=int(number % 2 == 0),
            failures={"crash": 1} if number % 2 == 0 else {},
            loss={"topic": 1 / number, "vqa": 2 / number},
            tasks={}
            if number == 1
            else {
                "topic": {"accuracy": 0.25 * number, "personal_mean": 0.5, "personal_worst_decile": 0.125},
                "vqa": {"accuracy": 0.125 * number},
            },
            modules_moved={"head/topic": 1_500_000, "adapter/fusion": 2_000_000},
        )

    return make


@pytest.fixture
def make_run(tmp_path: Path, record: Callable[..., RoundRecord]) -> MakeRun:
    """Makes a run below `tmp_path / "runs"`."""

    def make(
        name: str = "demo", *, rounds: int = 3, status: str = "completed", error: str | None = None
    ) -> RunDirectory:
        config = Config(
            name=name,
            rounds=3,
            topology=CountedTopology(tiers=(Tier(name="fog", count=1),)),
            devices=(DeviceGroup(name="reader", count=4, modalities=("text",), tasks=("topic", "vqa")),),
            sources={"news": EmbeddedSource(asset="bbc-news")},
            tasks={name: Task(source="news", inputs=("text",), label=name) for name in ("topic", "vqa")},
        )
        run = RunDirectory.create(config, tmp_path / "runs")
        nodes = {"cloud": entry("cloud", None), "fog-0": entry("fog", "cloud")}
        nodes |= {f"reader-{row}": entry("device", "fog-0", "reader", ["head/topic", "head/vqa"]) for row in range(4)}
        run.write_topology(nodes)
        for number in range(1, rounds + 1):
            run.append(record(number))
        run.finish(status, error)  # type: ignore[arg-type]
        return run

    return make


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
    groups = {"watch": (2, ["exercise"]), "reader": (2, ["side"]), "coach": (1, ["exercise", "side"])}
    devices = [
        {"name": name, "count": count, "modalities": ["imu"], "tasks": tasks} for name, (count, tasks) in groups.items()
    ]
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
def draw() -> Callable[..., Cell]:
    """Draws a cell around `ap`. `a>b 3`: a bit from a to b costs 3; `a=b 3`: and as much from b to a."""
    import networkx as nx  # type: ignore[import-untyped]

    from fogtune.platform.network.routing import Cell

    def drawn(*links: str) -> Cell:
        graph = nx.DiGraph()
        graph.add_node("ap")
        for link in links:
            ends, cost = link.split()
            one, other = ends.replace("=", ">").split(">")
            graph.add_edge(one, other, cost=float(cost))
            if "=" in ends:
                graph.add_edge(other, one, cost=float(cost))
        return Cell("ap", graph, frozenset(graph["ap"]))

    return drawn


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
def made_up(tiny: Callable[..., Config]) -> Callable[[Path, int], Path]:
    """Makes a run by hand, below a folder, with tasks of all kinds of heads and so many versions, the third damaged."""
    tasks = {
        "topic": {"source": "news", "inputs": ["text"], "label": "topic"},
        "tags": {"source": "vqa", "inputs": ["text", "image"], "label": "answer", "head": "multilabel"},
        "load": {"source": "watch", "inputs": ["imu"], "label": "exercise", "head": "regression"},
    }
    labels: dict[str, list[str]] = {"topic": ["short", "long"], "tags": ["red", "wordy"], "load": []}
    config = tiny(
        f"tasks={json.dumps(tasks)}",
        'devices=[{"name": "phone", "count": 2, "modalities": ["text", "image", "imu"], '
        '"tasks": ["topic", "tags", "load"]}]',
        'sources.vqa={"kind": "embedded", "asset": "easy-vqa"}',
        'model.encoders.image={"kind": "image"}',
    )

    def publish(run: Path, number: int) -> None:
        """A version with a head of each task at the cloud, and for topic at fog-0, too."""
        version = run / "modules" / f"v{number}"
        version.mkdir(parents=True)
        (version / "module.safetensors").write_bytes(b"weights")
        nodes = [("cloud", f"head/{task}") for task in tasks] + [("fog-0", "head/topic"), ("cloud", "encoder/imu")]
        nodes += [("cloud", "encoder/image")]
        entry = {"file": "module.safetensors", "sha256": hashlib.sha256(b"weights").hexdigest()}
        described = {
            name: {
                "inputs": task["inputs"],
                "head": task.get("head", "classification"),
                "labels": labels[name],
                "metrics": {"accuracy": number / 4},
            }
            for name, task in tasks.items()
        }
        modules = [{"node": node, "module": module, **entry} for node, module in nodes]
        (version / "manifest.json").write_text(json.dumps({"modules": modules, "tasks": described}))

    def make(parent: Path, versions: int) -> Path:
        run = RunDirectory.create(config, parent)
        for number in range(1, versions + 1):
            publish(run.path, number)
            if number == 3:
                (run.path / "modules/v3/module.safetensors").write_bytes(b"tampered")
        return run.path

    return make


@pytest.fixture(scope="session")
def answers() -> PredictRows:
    """What the model would say of rows of a run of `made_up`, computed from the samples."""

    async def predict_rows(rows: Sequence[Row]) -> Sequence[Outcome]:
        """topic: a text is long by its characters, ten are surely; tags: how red the image is, and how wordy the text;
        load: the sum of the series. The version and the variant show in none of them."""
        outcomes: list[Outcome] = []
        for row in rows:
            text, image, imu = (row.inputs.get(name) for name in ("text", "image", "imu"))
            if row.task == "topic":
                assert isinstance(text, str)
                outcomes.append(np.array([1 - len(text) / 10, len(text) / 10], np.float32))
            elif row.task == "tags":
                red = 0.25 if image is None else float(np.asarray(image)[..., 0].mean() / 255)
                outcomes.append(np.array([red, 0.25 if text is None else 0.75], np.float32))
            else:
                outcomes.append(np.array([np.sum(imu)], np.float32))  # type: ignore[arg-type]
        return outcomes

    return predict_rows


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


def entry(tier: str, parent: str | None, group: str | None = None, modules: list[str] | None = None) -> NodeEntry:
    """A node of `topology.json`."""
    owned = modules or []
    return NodeEntry(tier=tier, parent=parent, group=group, modalities=["text"], tasks=["topic"], modules=owned)
