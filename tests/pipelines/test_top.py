"""`fogtune top`: what it shows of federations that run, and that it says in one line if there are none."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from fogtune.actors.ray_runner import RayRunner
from fogtune.actors.watching import Federation, Numbers, SeenActor
from fogtune.pipelines import top
from fogtune.pipelines.cli import app
from fogtune.platform.config import Config
from fogtune.platform.run.record import Summary

MakeConfig = Callable[..., Config]

NUMBERS = Numbers(
    round=3,
    rounds=10,
    participants=4,
    round_s=1.5,
    energy_j=12.5,
    updates_lost=2,
    bytes={"uplink": 2_000_000},
    loss={"topic": 0.25},
    tasks={"topic": {"accuracy": 0.5, "personal_mean": 0.75}},
)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["top", *arguments])


def drawn(found: Sequence[Federation]) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(top.view(found))
    return capture.get()


def test_a_federation_that_runs_is_shown_without_asking_it(watches: MakeConfig, shared_ray: None) -> None:
    runner = RayRunner(watches("rounds=2", "execution.runner=ray", "network={}"), "watched")
    try:
        records = [runner.round(number).record for number in (1, 2)]
        found: dict[str, Any] = {}
        for _ in range(120):  # Ray hands numbers on every few seconds
            (found,) = json.loads(invoke("watched", "--json").stdout)
            if found["round"] == 2:
                break
            time.sleep(0.5)
        shown = invoke().stdout
        other = invoke("another")
    finally:
        runner.close()
    summary = Summary.of(records)
    assert (found["run"], found["round"], found["rounds"], found["left_s"]) == ("watched", 2, 2, 0)
    assert found["participants"] == records[-1].participants
    assert found["bytes"] == {link: count for link, count in summary.bytes.items() if count}
    assert found["loss"] == pytest.approx(dict(records[-1].loss))
    assert found["tasks"]["exercise"] == pytest.approx(dict(summary.tasks["exercise"]))
    for name in ("wall_s", "virtual_time_s", "energy_j"):
        assert found[name] == pytest.approx(getattr(summary, name))
    names = [actor["name"] for actor in found["actors"]]
    assert names[0] == "coordinator"
    assert any(name.startswith("devices/") for name in names)
    assert "watched  round 2 of 2" in shown
    assert other.exit_code == 2
    assert other.stderr == "error: another: is not running there; running: watched\n"


def test_without_a_federation_it_says_so(shared_ray: None) -> None:
    deadline_s = time.monotonic() + 60  # actors of other tests may still be ending
    while (result := invoke("--once")).stdout != f"{top.NOTHING}\n" and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert (result.exit_code, result.stdout) == (0, f"{top.NOTHING}\n")
    assert json.loads(invoke("--json").stdout) == []


def test_without_a_cluster_it_is_bad_input() -> None:
    code = "from fogtune.pipelines.cli import main; main()"
    command = [sys.executable, "-c", code, "top", "--address", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --address: '127.0.0.1:1' cannot be reached")
    assert done.stderr.count("\n") == 1


def test_the_view_has_rounds_costs_tasks_and_actors() -> None:
    actors = (SeenActor("coordinator", "ALIVE", "10.0.0.1", 1), SeenActor("fog/0"))
    text = drawn([Federation("mine", NUMBERS, actors), Federation("young", Numbers(), ())])
    assert "mine  round 3 of 10, 1.50 s a round, 10.5 s left" in text
    assert "4 took part, 0 dropped, 2 lost, energy 12.5 J, uplink 2.00 MB" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["topic", "accuracy", "0.500", "0.250"] in rows
    assert ["coordinator", "alive", "10.0.0.1", "1"] in rows
    assert ["fog/0", "–", "–", "–"] in rows
    assert "young: no round yet" in text


def test_of_many_actors_those_that_do_not_live_are_shown() -> None:
    hosts = [SeenActor(f"devices/{i}", "DEAD" if i == 90 else "ALIVE", "there", 0) for i in range(100)]
    rows = [line.split() for line in drawn([Federation("mine", NUMBERS, tuple(hosts))]).splitlines()]
    assert ["devices/90", "dead", "there", "0"] in rows
    assert ["and", str(100 - top.MOST_ACTORS), "more"] in rows


def test_a_terminal_is_shown_it_again_and_again_until_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "EVERY_S", 0)
    looks = iter([[Federation("mine", Numbers(round=number, rounds=2), ())] for number in (1, 2)])
    console = Console(width=120, force_terminal=True)
    with console.capture() as capture:
        top.watch(lambda: next(looks, []), console)
    shown = capture.get()
    assert 0 < shown.index("round 1 of 2") < shown.index("round 2 of 2")
