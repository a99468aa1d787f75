"""Federations on a real Ray: the same bits as in one process, however the devices are packed; names; failures."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from fogtune.actors import host_pool, machines, ray_runner
from fogtune.actors.coordinator import CoordinatorActor
from fogtune.actors.host_pool import Call, HostPool
from fogtune.actors.ray_runner import RayRunner
from fogtune.platform.config import Config
from fogtune.platform.errors import InputError, ProcessLost, RunFailed
from fogtune.platform.federation.local_runner import LocalRunner, Runner
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.run.record import RoundRecord
from fogtune.platform.run.rows import LedgerRows
from fogtune.platform.topology_build import build_tree

MakeConfig = Callable[..., Config]

CADENCE = "federation.cadence.fog=2"
SAMPLED = "federation.participation=0.6"
DEEP = 'topology.tiers=[{"name": "region", "count": 2}, {"name": "fog", "count": 3}]'

NETWORK = "network={placement: {spread_m: 20}, radio: {least_snr_db: -40, loss: 0.05}}"
HEADED = "network.d2d={heads: true, gossip_steps: 1, range_m: 1000}"
HEADED_ONLY = "network.d2d={heads: true, range_m: 1000}"
SMALL = "federation.compression=[{kind: skip, threshold: 0.02}, {kind: quantise, bits: 4}]"
GOSSIPED = 'federation.modules=[{"match": "head/*", "cadence": {"device": 2, "fog": 2}, "compression": []}]'
LATE = (
    "seed=2",
    "devices.1.joins=2",
    "network={placement: {radius_m: 150, spread_m: 5}, channel: {kind: log-distance, shadowing_db: 12}, "
    "radio: {fading: none, least_snr_db: -20}, d2d: {share: true}}",
)
"""Readers that come in round 2; they stand in the shadow of something."""
ALONE = ("execution.fused_devices=1", "execution.host_retries=0")
"""A device trains where it is at home, and is lost with its host."""
STAR = ("topology.tiers=[]", "network.placement.access_points=2")


def rounds(runner: Runner, count: int) -> tuple[list[RoundRecord], list[LedgerRows], Snapshot]:
    """What some rounds leave, but for how long they took."""
    try:
        results = [runner.round(number) for number in range(1, count + 1)]
        return [replace(r.record, wall_s=0.0) for r in results], [r.rows for r in results], runner.snapshot()
    finally:
        runner.close()


def same_bits(ours: Snapshot, theirs: Snapshot) -> bool:
    (tensors, rest), (other_tensors, other_rest) = ours.flatten(), theirs.flatten()
    return (
        rest == other_rest
        and tensors.keys() == other_tensors.keys()
        and all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())
    )


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("tiny", (CADENCE, "execution.devices_per_actor=5")),  # 1 host
        ("tiny", (SAMPLED, "federation.rule.kind=fedyogi", "execution.devices_per_actor=2")),  # 3 hosts
        (
            "bare",
            (DEEP, 'federation.modules=[{"match": "head/*", "scope": "device"}]', "execution.devices_per_actor=1"),
        ),
        ("bare", (NETWORK, HEADED, SMALL, GOSSIPED, "federation.compress_down=true", "federation.adaptive={}")),
        ("bare", (*LATE, "execution.devices_per_actor=1")),
        ("bare", (*LATE, *STAR)),
    ],
    ids=["1-host", "3-hosts", "one-a-device", "network", "late", "late-star"],
)
def test_ray_gives_the_bits_of_one_process(
    shared_ray: None, model: str, changes: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    config = request.getfixturevalue(model)(*changes)
    local = rounds(LocalRunner(config), 2)
    distributed = rounds(RayRunner(config, f"bits-{request.node.callspec.id}"), 2)
    assert distributed[:2] == local[:2]
    assert same_bits(distributed[2], local[2])
    if changes[:3] == LATE:
        assert "is handed on" in {decision["what"] for decision in local[0][1].decisions}


def test_actors_read_like_the_federation(watches: MakeConfig, shared_ray: None) -> None:
    regional = 'federation.modules=[{"match": "head/*", "scope": "fog"}]'  # else fog nodes would have nothing to do
    runner = RayRunner(watches("execution.devices_per_actor=3", regional), "names")
    try:
        names = names_in("names")
        assert names == {"coordinator", "fog/0", "fog/1", "devices/0/0", "devices/0+1/0"}
        for name in names:  # memory in large pages, which makes rounds with large modules twice as fast
            environment = Path(f"/proc/{host_pid('names', name)}/environ").read_text()
            assert "GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in environment
    finally:
        runner.close()


def names_in(namespace: str) -> set[str]:
    """Of the actors of a namespace."""
    return {a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == namespace}


def host_pid(namespace: str, name: str) -> int:
    """The process of a named actor."""
    actor = ray.get_actor(name, namespace)
    pid: Any = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
    return int(pid)


def end(namespace: str) -> None:
    """Kill all actors of a namespace."""
    for name in names_in(namespace):
        ray.kill(ray.get_actor(name, namespace))


def kill(runner: RayRunner, namespace: str, name: str) -> None:
    """Kill an actor between two rounds: hosts have begun the next one, which is forgotten."""
    os.kill(host_pid(namespace, name), signal.SIGKILL)
    runner.restore(runner.snapshot())


def test_two_do_not_run_the_same(watches: MakeConfig, shared_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = watches("execution.runner=ray")
    first = RayRunner(config, "twice")
    try:
        with monkeypatch.context() as patched:
            patched.setattr(ray_runner, "LAST_BREATH_S", 0.2)
            with pytest.raises(InputError, match="twice: runs in this cluster already"):
                RayRunner(config, "twice")
        assert first.round(1).record.participants
    finally:
        first.close()
    RayRunner(config, "twice").close()  # waits for the last of the first one's actors


def test_a_killed_host_fails_the_run_below_quorum(watches: MakeConfig, shared_ray: None) -> None:
    runner = RayRunner(watches("execution.devices_per_actor=3", *ALONE), "killed")
    try:
        runner.round(1)
        kill(runner, "killed", "devices/0/0")
        with pytest.raises(RunFailed, match=r"round 2: [23] of 5 updates arrived, below federation.quorum 1"):
            runner.round(2)
    finally:
        runner.close()


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("tiny", ("local.epochs=4",)),
        ("bare", ("local.epochs=60", "federation.modules=[{match: 'head/*', scope: device}]", NETWORK, HEADED)),
    ],
)
def test_a_host_that_is_killed_in_a_cohort_loses_nothing(
    shared_ray: None, model: str, changes: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    """It dies while it trains in round 2, and again with the evaluation of round 3."""
    config = request.getfixturevalue(model)(*changes)
    expected = rounds(LocalRunner(config), 3)
    namespace = f"cohort-{model}"
    runner = RayRunner(config, namespace)
    try:
        results = [runner.round(1)]
        for number, after_s in ((2, 0.2), (3, 0.9)):
            runner.restore(runner.snapshot())  # training begins when it is asked for
            name = next(name for name in names_in(namespace) if name.startswith("devices/"))
            killer = threading.Timer(after_s, os.kill, (host_pid(namespace, name), signal.SIGKILL))
            killer.start()
            results.append(runner.round(number))
            killer.join()
        assert [r.lost for r in results] == [None] * 3
        assert [replace(r.record, wall_s=0.0) for r in results] == expected[0]
        assert same_bits(runner.snapshot(), expected[2])
    finally:
        runner.close()


@pytest.mark.parametrize("retries", [0, 1])
def test_a_host_that_is_killed_as_a_head_adds_up(
    watches: MakeConfig, shared_ray: None, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    """It is asked again; or what was sent to that head is lost with it. The other head is of another host."""
    config = watches("seed=3", NETWORK, HEADED_ONLY, f"execution.host_retries={retries}", "federation.quorum=0.1")
    namespace = f"adding-{retries}"
    ask = HostPool.ask
    heads: list[tuple[str, str]] = []

    def ask_and_kill(self: HostPool, host: str, method: str, *arguments: Any, returns: int = 1) -> Call:
        if method == "add_up" and not heads:
            os.kill(host_pid(namespace, host), signal.SIGKILL)
        if method == "add_up":
            heads.append((host, arguments[1]))
        return ask(self, host, method, *arguments, returns=returns)

    monkeypatch.setattr(HostPool, "ask", ask_and_kill)
    coordinator: Any = CoordinatorActor(config, namespace)  # in this process, so that it can be watched
    try:
        coordinator.start()
        result = coordinator.round(1)
    finally:
        end(namespace)
    undisturbed = LocalRunner(config).round(1)
    if retries:
        assert replace(result.record, wall_s=0.0) == replace(undisturbed.record, wall_s=0.0)
        assert result.lost is None
    else:
        lost = sum(host == heads[0][0] for host, _ in heads)
        assert result.record.failures["crash"] == lost
        assert result.record.updates_lost == lost + result.record.failures["head"]
        assert f"its host {heads[0][0]} died" in (result.lost or "")


@pytest.mark.parametrize(("deaths", "survives"), [(1, True), (2, False)])
def test_a_host_that_dies_as_it_is_started_again(
    watches: MakeConfig, shared_ray: None, monkeypatch: pytest.MonkeyPatch, deaths: int, survives: bool
) -> None:
    """It is tried again, as often as `execution.host_retries`, 1, says."""
    config = watches()
    namespace = f"again-{deaths}"
    pool = HostPool(config, namespace, build_tree(config))
    start, left = HostPool._start, [deaths]

    def start_and_kill(self: HostPool, name: str, num_cpus: float) -> Any:
        started = start(self, name, num_cpus)
        if left[0]:
            left[0] -= 1
            ray.kill(started)
        return started

    try:
        setup = pool.load()
        host = next(iter(pool.machine))
        os.kill(host_pid(namespace, host), signal.SIGKILL)
        monkeypatch.setattr(HostPool, "_start", start_and_kill)
        call = pool.ask(host, "setup")
        if survives:
            ((_, answer),) = pool.all_answers([call], 1)
            assert answer.initial.keys() == setup.initial.keys()
        else:
            with pytest.raises(ProcessLost):
                pool.all_answers([call], 1)
    finally:
        end(namespace)


def test_where_a_hosts_machine_has_gone_its_start_is_not_waited_for(
    watches: MakeConfig, shared_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "LOOK_EVERY_S", 0.1)
    config = watches("execution.placement=labels")
    with pytest.raises(ProcessLost, match=r"^evaluator/0 waits for machine cloud$"):
        HostPool(config, "nowhere", build_tree(config)).load()


@pytest.mark.parametrize(
    ("share", "there", "given"), [("1", 0, "room for 0 of 5"), ("0.5", 1, None), ("0.5", 1, "room for 2 of 5")]
)
def test_hosts_are_as_many_as_gpus_have_room_for(
    watches: MakeConfig, shared_ray: None, monkeypatch: pytest.MonkeyPatch, share: str, there: int, given: str | None
) -> None:
    """No GPU is needed for it: where there is room, hosts wait for the GPU that Ray does not have."""
    monkeypatch.setattr(host_pool, "gpus", lambda: {None: float(there)})
    per_actor = 1 if given else "auto"
    config = watches(f"execution.gpus_per_actor={share}", f"execution.devices_per_actor={per_actor}")
    try:
        if given:
            with pytest.raises(InputError, match=rf"^execution.gpus_per_actor: {share} given.* {given} host processes"):
                HostPool(config, "gpus", build_tree(config))
        else:
            assert list(HostPool(config, "gpus", build_tree(config)).evaluating) == ["devices/0/0", "devices/0+1/0"]
    finally:
        end("gpus")


def test_with_a_lower_quorum_the_run_goes_on_and_counts_what_is_lost(watches: MakeConfig, shared_ray: None) -> None:
    runner = RayRunner(watches("execution.devices_per_actor=3", "federation.quorum=0.4", *ALONE), "quorum")
    try:
        runner.round(1)
        kill(runner, "quorum", "devices/0/0")
        second = runner.round(2)
        assert second.record.updates_lost == second.record.dropped == 2
        assert second.record.failures == {"crash": 2}
        assert "died" in (second.lost or "")
        third = runner.round(3)  # the host is up again
        assert (third.record.updates_lost, third.lost) == (0, None)
    finally:
        runner.close()


@pytest.mark.parametrize("retries", [0, 1])
def test_a_host_that_takes_too_long_is_ended(watches: MakeConfig, shared_ray: None, retries: int) -> None:
    config = watches(
        "execution.devices_per_actor=3",
        "execution.fused_devices=1",
        f"execution.host_retries={retries}",
        "execution.host_timeout_s=10",
        "federation.quorum=0.4",
    )
    namespace = f"slow-{retries}"
    runner = RayRunner(config, namespace)
    try:
        runner.round(1)
        os.kill(host_pid(namespace, "devices/0/0"), signal.SIGSTOP)
        runner.restore(runner.snapshot())
        second = runner.round(2)
        if retries:
            assert [replace(second.record, wall_s=0.0)] == rounds(LocalRunner(config), 2)[0][1:]
            return
        assert second.record.failures == {"time-out": 2}
        assert "no answer within execution.host_timeout_s, 10 s" in (second.lost or "")
        assert runner.round(3).record.failures == {}
    finally:
        runner.close()


def test_a_killed_head_takes_its_members_updates_with_it(watches: MakeConfig, shared_ray: None) -> None:
    one_each = ("execution.devices_per_actor=1", "federation.quorum=0.2", *ALONE)
    config = watches(*one_each, NETWORK, "network.radio.loss=0", HEADED_ONLY)
    (_, twin), _, _ = rounds(LocalRunner(config), 2)
    headed = {d["about"]: d["why"].split()[0] for d in twin.decisions if d["what"] == "is headed"}
    head = min(headed.values())
    members = [device for device, its_head in headed.items() if its_head == head]
    runner = RayRunner(config, "head")
    try:
        runner.round(1)
        kill(runner, "head", f"device/{head}")
        second = runner.round(2)
        assert second.record.decisions == twin.decisions
        assert second.record.updates_lost == 1 + len(members) > 1
        assert f"its head {head} failed" in (second.lost or "")
        third = runner.round(3)  # all are back, the members with what they had before
        assert third.record.updates_lost == 0
    finally:
        runner.close()


def test_what_a_killed_host_was_to_hand_on_is_missed_by_those_who_wait_for_it(
    bare: MakeConfig, shared_ray: None
) -> None:
    config = bare(*LATE, "execution.devices_per_actor=1", "federation.quorum=0.2", *ALONE)
    (_, twin), _, _ = rounds(LocalRunner(config), 2)
    told = {d["about"]: d["why"] for d in twin.decisions if d["what"] == "is handed on"}
    assert "from coach-0: " in told["reader-0"]
    runner = RayRunner(config, "copies")
    try:
        runner.round(1)
        kill(runner, "copies", "device/coach-0")
        second = runner.round(2)
        assert second.record.updates_lost == 2
        assert " has not come from coach-0" in (second.lost or "")
        third = runner.round(3)
        assert (third.record.updates_lost, third.lost) == (0, None)
    finally:
        runner.close()


def test_where_ray_has_died_on_this_machine_no_answer_is_waited_for(
    tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The raylet of this process is gone, and with it what would have started the actors."""
    alive = iter([True])  # as the runner begins
    monkeypatch.setattr(ray_runner, "_is_alive", lambda: next(alive, False))
    monkeypatch.setattr(ray_runner, "WATCH_EVERY_S", 0.01)
    with pytest.raises(ProcessLost, match=r"^Ray's process on this machine died$"):
        RayRunner(tiny(), "gone")
