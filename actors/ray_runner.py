"""Runs a federation on Ray: joins a cluster or starts one here, and talks to the coordinator actor."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
import ray.util

from fogtune.platform.config import Config
from fogtune.platform.errors import InputError, ProcessLost
from fogtune.platform.federation.local_runner import RoundResult
from fogtune.platform.federation.messages import Setup
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.topology import CLOUD
from fogtune.platform.topology_build import build_tree

from .answers import get
from .coordinator import CoordinatorRemote
from .joining import join
from .machines import on, require
from .wire import share_tensors

LAST_BREATH_S = 30.0
"""How long actors may live on after the process that ran them."""

WATCH_EVERY_S = 5.0
"""So often it is asked whether Ray lives here while an answer is waited for: without it, that would never come."""


class RayRunner:
    """The driver's side; the federation's actors live as long as this runner."""

    def __init__(self, config: Config, namespace: str, on_stage: Callable[[str], None] = lambda _: None) -> None:
        """Start the federation's actors, all named in `namespace`, on the Ray that this process is connected to.

        If it is not connected yet, or that Ray has died, it joins `execution.address`, or starts Ray on this machine.

        Raises:
            InputError: the cluster cannot be joined or lacks a machine, somebody else runs the same there, or data or
                weights cannot be used as configured.
            RunFailed: an actor died.
        """
        if ray.is_initialized() and not _is_alive():
            ray.shutdown()
        self._started_ray = not ray.is_initialized()
        self._round = 0
        self._coordinator: Any = None
        try:
            if self._started_ray:
                join(config.execution.address, namespace, on_stage)
            tree = build_tree(config)
            require(tree)
            _wait_until_free(namespace)
            share_tensors()
            on_stage("starting actors, loading model and data")
            where = on(tree[CLOUD].machine)
            options = CoordinatorRemote.options(name="coordinator", namespace=namespace, num_cpus=0, **where)
            self._coordinator = options.remote(config, namespace)
            self.setup: Setup = self._get(self._coordinator.start.remote())
        except BaseException:
            self.close()
            raise

    def round(self, number: int) -> RoundResult:
        self._round = number
        result: RoundResult = self._get(self._coordinator.round.remote(number))
        return result

    def snapshot(self) -> Snapshot:
        snapshot: Snapshot = self._get(self._coordinator.snapshot.remote())
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        self._get(self._coordinator.restore.remote(snapshot))

    def close(self) -> None:
        """End the federation's actors, and Ray if this runner started it or joined it."""
        if self._started_ray:
            ray.shutdown()
        elif self._coordinator is not None:
            ray.kill(self._coordinator)  # the other actors are its children and end with it

    def _get(self, ref: Any) -> Any:
        while not ray.wait([ref], timeout=WATCH_EVERY_S)[0]:
            if not _is_alive():
                raise ProcessLost(self._round, "Ray's process on this machine died")
        return get(ref, self._round)


def _is_alive() -> bool:
    """Whether the machine through which this process is connected belongs to the cluster still."""
    here = ray.get_runtime_context().get_node_id()
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == here)  # type: ignore[no-untyped-call]


def _wait_until_free(namespace: str) -> None:
    """Until the actors of an earlier life are gone, which Ray ends in its own time. InputError if they stay."""
    deadline_s = time.monotonic() + LAST_BREATH_S
    while any(actor["namespace"] == namespace for actor in ray.util.list_named_actors(all_namespaces=True)):
        if time.monotonic() > deadline_s:
            raise InputError(namespace, "runs in this cluster already; wait for its end, or stop it")
        time.sleep(0.05)
