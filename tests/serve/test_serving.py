"""The service as its users meet it: on a real Ray Serve, over HTTP, under load; versions come and processes die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from fogtune.pipelines.serving import serving
from fogtune.platform.errors import InputError
from fogtune.serve.decoding import Decoder
from fogtune.serve.predictor import Predictor
from fogtune.serve.registry import Registry
from fogtune.serve.rows import Refusal, Row
from fogtune.serve.settings import Settings

TEXTS = ("the team won the match", "shares fell again", "a film about a computer", "the minister resigned")
VARIANTS = ("fog:fog-0", "fog:fog-1", "device:reader-0", "device:coach-0")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, body: Any = None, timeout_s: float = 60.0) -> Any:
    headers = {"Content-Type": "application/json"}
    with urlopen(
        Request(url, None if body is None else json.dumps(body).encode(), headers), timeout=timeout_s
    ) as found:
        return json.load(found)


def topic(url: str, text: str, variant: str) -> tuple[int, list[float]]:
    """Version and scores."""
    found = ask(f"{url}/v1/tasks/topic:predict?variant={variant}", {"inputs": [{"text": text}]})
    assert found["variant"] == variant
    return found["version"], list(found["predictions"][0]["scores"].values())


def until(reached: Callable[[], bool], limit_s: float) -> float:
    """Seconds until something holds."""
    began_s = time.monotonic()
    while not reached():
        assert time.monotonic() - began_s < limit_s, "it did not come"
        time.sleep(0.05)
    return time.monotonic() - began_s


@pytest.fixture(scope="module")
def run(served: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, to which versions are added."""
    return Path(shutil.copytree(served, tmp_path_factory.mktemp("live") / "run"))


@pytest.fixture(scope="module")
def url(run: Path, shared_ray: None) -> Iterator[str]:
    patient = Settings(run=str(run), max_batch_rows=8, timeout_s=55)  # while a killed model server is started again
    with serving(patient, port=free_port()) as found:
        until(lambda: ask(f"{found}/v2/health/ready")["ready"], 60)
        yield found


@pytest.fixture(scope="module")
def expected(served: Path) -> dict[tuple[int, str, str], list[float]]:
    """(1 or 2, text, variant) -> scores of that version, predicted here."""
    predictor = Predictor(Registry(served), Settings(run=str(served)))
    keys = [(number, text, variant) for number in (1, 2) for text in TEXTS for variant in VARIANTS]
    scores = predictor.predict([Row("topic", variant, number, {"text": text}) for number, text, variant in keys])
    return {key: np.asarray(found).tolist() for key, found in zip(keys, scores, strict=True)}


def publish(run: Path, number: int) -> None:
    """A further version, whose modules are those of version 1 if its number is odd, else of version 2."""
    parts = list((run / f"modules/v{2 - number % 2}").iterdir())
    temporary = run / f"modules/.v{number}.tmp"
    temporary.mkdir()
    for part in parts:
        (shutil.copytree if part.is_dir() else shutil.copy)(part, temporary / part.name)
    temporary.rename(run / f"modules/v{number}")


class Load:
    """Clients that ask without a pause until the block ends; every answer must be that of the version it names."""

    def __init__(self, url: str, expected: dict[tuple[int, str, str], list[float]], clients: int = 4) -> None:
        self._url = url
        self._expected = expected
        self._clients = clients
        self._stop = threading.Event()
        self.versions: list[int] = []
        self.failures: list[str] = []

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(self._clients)
        self._done = [self._pool.submit(self._client, i) for i in range(self._clients)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for done in self._done:
            done.result()

    def _client(self, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            turn += 1
            text, variant = TEXTS[turn % 4], VARIANTS[turn // 4 % 4]
            try:
                version, scores = topic(self._url, text, variant)
            except HTTPError as error:
                with error:
                    self.failures.append(f"{error}: {error.read()!r}")
                continue
            except OSError as error:
                self.failures.append(repr(error))
                continue
            wanted = self._expected[2 - version % 2, text, variant]
            if not np.allclose(scores, wanted, rtol=0, atol=1e-5):
                self.failures.append(f"v{version} {variant}: {scores} instead of {wanted}")
            self.versions.append(version)


def test_all_tasks_and_samples_over_http(url: str, run: Path) -> None:
    """Samples as the service offers them, predicted by it and by the model here."""
    predictor = Predictor(Registry(run), Settings(run=str(run)))
    for info in ask(f"{url}/v1/tasks")["tasks"]:
        name = info["name"]
        (variant, *_) = ask(f"{url}/v1/tasks/{name}/variants")["variants"]
        samples = ask(f"{url}/v1/tasks/{name}/samples")["samples"]
        assert len(samples) == 8
        body = {"inputs": [sample["inputs"] for sample in samples]}
        found = ask(f"{url}/v1/tasks/{name}:predict?variant={variant}&version=2", body)
        assert (found["task"], found["version"], found["variant"]) == (name, 2, variant)
        declared = Registry(run).read(2).tasks[name]
        decoder = Decoder(Settings(run=str(run)))
        rows = [Row(name, variant, 2, decoder.sample(declared, sample["inputs"], "sample")) for sample in samples]
        for said, wanted in zip(found["predictions"], predictor.predict(rows), strict=True):
            assert not isinstance(wanted, Refusal)
            np.testing.assert_allclose(list(said["scores"].values()), wanted, rtol=0, atol=1e-5)
        for said in found["predictions"]:
            assert said["label"] == max(said["scores"], key=said["scores"].__getitem__)
            assert sum(said["scores"].values()) == pytest.approx(1, abs=1e-5)


def test_versions_swap_under_load(url: str, run: Path, expected: dict[tuple[int, str, str], list[float]]) -> None:
    """No request fails, and no answer mixes versions; each version arrives within 5 s."""
    with Load(url, expected) as load:
        until(lambda: len(load.versions) > 5, 30)
        for number in (3, 4, 5):
            publish(run, number)
            until(lambda: load.versions[-1] == number, 5)  # noqa: B023 (used before the next turn)
            time.sleep(0.5)
    assert load.failures == []
    assert {2, 3, 4, 5} <= set(load.versions)


def test_a_damaged_version_is_refused(url: str, run: Path, expected: dict[tuple[int, str, str], list[float]]) -> None:
    before = max(Registry(run).versions())
    with Load(url, expected, clients=1) as load:
        temporary = run / "modules/.damaged"
        shutil.copytree(run / "modules/v2", temporary)
        with (temporary / "fog-0/head/topic.safetensors").open("ab") as file:
            file.write(b"!")
        temporary.rename(run / f"modules/v{before + 1}")
        until(lambda: ask(f"{url}/v1/versions")["versions"][-1]["state"] == "refused", 5)
        time.sleep(1)
    assert load.failures == []
    assert set(load.versions) == {before}
    with pytest.raises(HTTPError) as refused:
        ask(f"{url}/v1/tasks/topic:predict?variant=fog:fog-0&version={before + 1}", {"inputs": [{"text": "x"}]})
    with refused.value as refusal:
        assert refusal.code == 404
        assert "does not match the sha256" in refusal.read().decode()


def test_pin_canary_and_roll_back(url: str, expected: dict[tuple[int, str, str], list[float]]) -> None:
    decided = ask(f"{url}/v1/versions:promote", {"version": 1})
    assert decided["rollout"] == {"pinned": 1, "canary": None}
    with Load(url, expected, clients=1) as load:
        until(lambda: len(load.versions) > 5, 30)
    assert set(load.versions) == {1}
    ask(f"{url}/v1/versions:promote", {"version": 2, "percent": 25})
    with Load(url, expected, clients=1) as load:
        until(lambda: len(load.versions) >= 40, 60)
    assert load.versions[:40].count(2) == 10
    assert ask(f"{url}/v1/versions:rollback", {})["rollout"] == {"pinned": 1, "canary": None}
    with pytest.raises(HTTPError) as none_before:
        ask(f"{url}/v1/versions:rollback", {})
    with none_before.value as refusal:
        assert refusal.code == 409
    assert ask(f"{url}/v1/versions:promote", {"version": "latest"})["rollout"]["pinned"] is None


def replica_pids(deployment: str) -> list[int]:
    """Of the Ray that this process has started, by the names that it gives processes; another may serve the same."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if " ".join(process.cmdline()).startswith(f"ray::ServeReplica:fogtune:{deployment}"):
                found.append(process.pid)
    return found


def test_a_model_server_is_killed_under_load(
    url: str, run: Path, expected: dict[tuple[int, str, str], list[float]]
) -> None:
    """Requests wait for its successor; what was published meanwhile is served by it."""
    with Load(url, expected) as load:
        until(lambda: len(load.versions) > 5, 30)
        (killed,) = replica_pids("ModelServer")
        os.kill(killed, signal.SIGKILL)
        newest = max(Registry(run).versions()) + 1
        publish(run, newest)
        until(lambda: load.versions[-1] == newest, 90)
    assert load.failures == []
    assert killed not in replica_pids("ModelServer")


def test_another_port_on_the_same_cluster_is_refused(run: Path, url: str) -> None:
    """And the service that is there goes on."""
    with (
        pytest.raises(InputError, match=r"--port: .* Serve on this cluster listens on .*; allowed: that"),
        serving(Settings(run=str(run)), port=free_port()),
    ):
        pass
    assert ask(f"{url}/v2/health/live")["live"]
