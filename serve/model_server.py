"""Model servers: replicas with one shared backbone and all modules, which answer mixed batches.

    request -> gate -> batch (@serve.batch) -> one forward pass in a thread -> answers

While a pass runs, requests wait at the gate; when it ends they enter the next batch together. Without the gate, the
batcher would cut its next batch as soon as the wait is over, pass or no pass, and batches would stay small under load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray import serve
from ray.util.metrics import Counter, Gauge, Histogram

from .predictor import Predictor
from .registry import Registry
from .rows import Outcome, Row
from .settings import Settings

Request = tuple[Row, ...]


def _count(requests: list[Request]) -> int:
    return sum(map(len, requests))


class ModelServerReplica:
    """One replica. Its event loop stays free for health checks: passes run in the one thread of `_worker`."""

    def __init__(self, settings: Settings) -> None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._predictor = Predictor(Registry(Path(settings.run)), settings, device)
        self._worker = ThreadPoolExecutor(1, "predictor")
        self._rows = Histogram("fogtune_batch_rows", "Samples in a forward pass", boundaries=[1, 2, 4, 8, 16, 32, 64])
        self._misses = Counter("fogtune_module_misses", "Modules that had to be read from disk for a request")
        self._held_bytes = Gauge("fogtune_module_bytes", "Memory that modules take")
        self._gate = asyncio.Event()
        self._gate.set()
        batched: Any = self._batched
        batched.set_max_batch_size(settings.max_batch_rows)
        batched.set_batch_wait_timeout_s(settings.batch_wait_s)

    async def predict(self, rows: Request) -> list[Outcome]:
        """The outcomes of at most `max_batch_rows` rows, in order."""
        await self._gate.wait()
        outcomes: list[Outcome] = await self._batched(rows)
        return outcomes

    @serve.batch(max_concurrent_batches=1, batch_size_fn=_count)  # bounds of size and wait: by the settings, above
    async def _batched(self, requests: Sequence[Request]) -> list[list[Outcome]]:
        self._gate.clear()
        try:
            rows = [row for request in requests for row in request]
            loop = asyncio.get_running_loop()
            outcomes = iter(await loop.run_in_executor(self._worker, self._pass, rows))
            return [[next(outcomes) for _ in request] for request in requests]
        finally:
            self._gate.set()

    def _pass(self, rows: list[Row]) -> list[Outcome]:
        """In the worker, metrics included: they are not free."""
        missed = self._predictor.store.misses
        outcomes = self._predictor.predict(rows)
        self._rows.observe(len(rows))
        self._held_bytes.set(self._predictor.store.nbytes)
        if self._predictor.store.misses > missed:
            self._misses.inc(self._predictor.store.misses - missed)
        return outcomes


ModelServer = serve.deployment(
    name="ModelServer",
    # What is beyond waits in the gateway, from where it may still go to another replica; autoscaling counts it.
    max_ongoing_requests=128,
    max_queued_requests=1024,
    autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 64},
    ray_actor_options={"num_cpus": 0},  # fits beside a training that has taken all processors
    graceful_shutdown_timeout_s=60,
)(ModelServerReplica)
