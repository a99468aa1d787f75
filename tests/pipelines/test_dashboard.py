"""What Ray's dashboard, asked over HTTP as its pages ask it, says of a federation that runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from fogtune.platform.config import Config
from fogtune.platform.config.load import dump_config

COMMAND = [sys.executable, "-c", "from fogtune.pipelines.cli import main; main()"]
ENVIRONMENT = os.environ | {"RAY_AUTH_MODE": "disabled"}
REGIONAL = 'federation.modules=[{"match": "head/*", "scope": "fog"}]'  # else fog nodes would have nothing to do


@pytest.fixture(scope="module")
def cluster(ray_head: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    """Where a Ray listens."""
    with ray_head(ENVIRONMENT, "--num-cpus=2") as address:
        yield address


@pytest.fixture(scope="module")
def dashboard(cluster: str, watches: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of that of a run, which stands still after two rounds, and then ends as a service manager ends it."""
    folder = tmp_path_factory.mktemp("run")
    hosts = ("execution.devices_per_actor=3", "execution.fused_devices=1")  # else one of them trained for both
    (folder / "watches.yaml").write_text(dump_config(watches("rounds=1000", REGIONAL, *hosts)))
    words = [*COMMAND, "run", "watches.yaml", "--address", cluster]
    with subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            url = None
            for line in running.stdout:
                if found := re.match(r"Ray dashboard: (\S+)", line):
                    url = found[1]
                if line.startswith("round 2/"):
                    break
            assert url
            running.send_signal(signal.SIGSTOP)  # it asks for no more rounds
            yield url
        finally:
            running.send_signal(signal.SIGCONT)
            running.terminate()
            running.communicate(timeout=120)
    assert running.returncode == 130


def read(url: str) -> str:
    """Nothing while what is to answer, a process of Ray's that starts last, is not ready."""
    try:
        with urlopen(url, timeout=30) as answer:
            found: str = answer.read().decode()
            return found
    except HTTPError:
        return ""


def ask(url: str) -> Any:
    with urlopen(url, timeout=30) as answer:
        return json.load(answer)


def listed(dashboard: str, what: str) -> list[dict[str, Any]]:
    """All there are of a kind."""
    answer = ask(f"{dashboard}/api/v0/{what}?detail=true&limit=1000")
    assert answer["result"], answer["msg"]
    some: list[dict[str, Any]] = answer["data"]["result"]["result"]
    return some


def test_its_pages_are_there(dashboard: str) -> None:
    with urlopen(dashboard, timeout=30) as page:
        assert b"<title>Ray Dashboard</title>" in page.read()


def test_actors_read_like_the_federation(dashboard: str) -> None:
    actors = listed(dashboard, "actors")
    assert {actor["name"]: actor["class_name"] for actor in actors} == {
        "coordinator": "CoordinatorActor",
        "fog/0": "AggregatorActor",
        "fog/1": "AggregatorActor",
        "devices/0/0": "HostActor",
        "devices/0+1/0": "HostActor",
    }
    assert {actor["state"] for actor in actors} == {"ALIVE"}
    said = {actor["name"]: actor["repr_name"] for actor in actors}
    assert said["coordinator"] == "coordinator (smoke)"
    assert said["fog/0"] == "fog/0 (3 children)"
    assert said["devices/0+1/0"] == "devices/0+1/0 (3 devices)"


def test_tasks_are_named_by_who_does_what(dashboard: str) -> None:
    deadline_s = time.monotonic() + 60
    wanted = {"coordinator (smoke).round", "devices/0+1/0 (3 devices).train", "fog/0 (3 children).add"}
    while not wanted <= (names := {task["name"] for task in listed(dashboard, "tasks")}):
        assert time.monotonic() < deadline_s, names  # actors tell of their tasks now and then
        time.sleep(0.5)


def test_the_log_of_an_actor_names_run_round_and_node(dashboard: str) -> None:
    (actor,) = (actor for actor in listed(dashboard, "actors") if actor["name"] == "coordinator")
    page = f"{dashboard}/api/v0/logs/file?actor_id={actor['actor_id']}&suffix=err&lines=1000"
    line = rf" {actor['ray_namespace']} round 2 coordinator: took [\d.]+ s, 5 took part"
    deadline_s = time.monotonic() + 60
    while not re.search(line, text := read(page)):
        assert time.monotonic() < deadline_s, text
        time.sleep(0.5)
