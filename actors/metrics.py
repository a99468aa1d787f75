"""What a federation tells Prometheus: on the metrics endpoint that Ray has on each machine, prefixed with `ray_`."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from fogtune.platform.run.record import RoundRecord

TELL_EVERY_S = 1.0
"""A round may take a hundredth of that; Prometheus asks every few seconds."""


class RoundMetrics:
    """Numbers of the rounds, under the name of the run. Counters begin at zero where a run goes on."""

    def __init__(self, run: str) -> None:
        def gauge(name: str, text: str, *tags: str) -> Gauge:
            made = Gauge(f"fogtune_{name}", text, ("run", *tags))
            made.set_default_tags({"run": run})
            return made

        def counter(name: str, text: str, *tags: str) -> Counter:
            made = Counter(f"fogtune_{name}", text, ("run", *tags))
            made.set_default_tags({"run": run})
            return made

        self._round = gauge("round", "The last round that was finished")
        self._rounds = gauge("rounds", "Rounds that the run is going to have")
        self._participants = gauge("participants", "Devices that took part in the last round")
        self._under_way = gauge("devices_under_way", "Devices whose updates come in a later round")
        self._queue = gauge("host_queue", "Devices that a host was asked to train in the last round", "host")
        self._metric = gauge("task_metric", "Held-out value of the global model", "task", "metric")
        self._loss = gauge("task_loss", "Mean training loss of the last round", "task")
        self._duration_s = gauge("round_duration_seconds", "Wall time of a round, of late")
        self._started_s = gauge("start_time_seconds", "When the coordinator's process began, since 1970")
        self._wall_s = counter("round_seconds", "Wall time of rounds")
        self._virtual_s = counter("virtual_seconds", "Time that the rounds take in the modelled network")
        self._joules = counter("joules", "Energy that the rounds take in the modelled network")
        self._bytes = counter("link_bytes", "Bytes over links of a kind", "link")
        self._dropped = counter("updates_dropped", "Updates that did not come, or came too late")
        self._lost = counter("updates_lost", "Updates that were lost")
        self._failures = counter("failures", "Updates that are missing, by the kind of failure", "failure")
        self._waiting: list[RoundRecord] = []
        self._told_s = 0.0
        # Numbers of a process that died stay for a while beside those of the next one: this tells them apart.
        self._began_s = time.time()

    def tell(self, record: RoundRecord, queues: Mapping[str, int]) -> None:
        """Tell of a round, at the latest with the next after a second, or with the last.

        Args:
            record: of the round.
            queues: host -> how many devices it was asked to train.
        """
        self._waiting.append(record)
        now_s = time.monotonic()
        if now_s - self._told_s < TELL_EVERY_S and record.round < record.rounds:
            return
        self._told_s = now_s
        for one in self._waiting:
            self._count(one)
        self._duration_s.set(sum(one.wall_s for one in self._waiting) / len(self._waiting))
        self._waiting.clear()
        self._started_s.set(self._began_s)
        self._round.set(record.round)
        self._rounds.set(record.rounds)
        self._participants.set(record.participants)
        self._under_way.set(record.under_way)
        for host, devices in queues.items():
            self._queue.set(devices, {"host": host})
        for task, loss in record.loss.items():
            self._loss.set(loss, {"task": task})

    def _count(self, record: RoundRecord) -> None:
        self._wall_s.inc(record.wall_s)
        for counter, value in (
            (self._virtual_s, record.virtual_time_s),
            (self._joules, record.energy_j),
            (self._dropped, record.dropped),
            (self._lost, record.updates_lost),
        ):
            if value:
                counter.inc(value)
        for failure, count in record.failures.items():
            self._failures.inc(count, {"failure": failure})
        for link, count in record.bytes.items():
            if count:
                self._bytes.inc(count, {"link": link})
        for task, metrics in record.tasks.items():
            for metric, value in metrics.items():
                self._metric.set(value, {"task": task, "metric": metric})
