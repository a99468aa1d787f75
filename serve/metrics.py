"""What a gateway counts, for Prometheus. What model servers count is among Ray's own metrics.

Labels have few values, whatever requests say: routes as templates, tasks that are served, versions of the run; never
a path as it came, a variant or a key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The numbers of one process. `tasks` returns the names that are tasks now; it must not raise."""

    def __init__(self, tasks: Callable[[], Collection[str]]) -> None:
        self._tasks = tasks
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "fogtune_requests", "Requests answered", ["route", "task", "status"], registry=registry
        )
        self._seconds = Histogram(
            "fogtune_request_seconds", "From a request's headers to the end of its answer", ["route"], registry=registry
        )
        self._predictions = Counter("fogtune_predictions", "Samples predicted", ["task", "version"], registry=registry)
        self._version = Gauge("fogtune_version", "The version served", ["state"], registry=registry)
        self.in_flight = Gauge("fogtune_in_flight_requests", "Requests being answered", registry=registry)
        self._refused = Gauge("fogtune_versions_refused", "Published versions that cannot be served", registry=registry)

    def request(self, route: str, task: str, status: int, seconds: float) -> None:
        """Counts a request. `route` is a template; `task` may be anything, what is no task is not told apart."""
        self._requests.labels(route, task if task in self._tasks() else "", str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def predicted(self, task: str, version: int, samples: int) -> None:
        """Counts predictions of a task that is known."""
        self._predictions.labels(task, str(version)).inc(samples)

    def serving(self, stable: int | None, canary: int | None, refused: int) -> None:
        """Tells which versions are served, a line for each that there is, and how many are refused."""
        for state, version in (("stable", stable), ("canary", canary)):
            if version is None:
                self._version.remove(state)
            else:
                self._version.labels(state).set(version)
        self._refused.set(refused)

    def text(self) -> bytes:
        """The exposition, of the type `CONTENT_TYPE_LATEST`."""
        return generate_latest(self._registry)


def routes(metrics: Metrics) -> APIRouter:
    """GET /metrics."""
    router = APIRouter(tags=["service"])

    @router.get("/metrics", response_class=PlainTextResponse, summary="Numbers of this gateway, for Prometheus")
    def exposition() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router
