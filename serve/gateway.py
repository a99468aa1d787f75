"""The gateway: a Ray Serve ingress that answers HTTP by asking model servers.

    client -> Serve's proxy -> Gateway (guard, decoding, version) -> ModelServer (mixed batches) -> Gateway -> client

A model server that dies is asked for again on another replica, for predicting twice does no harm: within the time that
a request has, its death costs time alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from fogtune.platform.errors import InputError

from .catalogue import Catalogue
from .loopback import is_loopback
from .registry import Registry
from .rows import Outcome, Row
from .service import Overloaded, Service
from .settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

RETRY_S = 0.1


@serve.ingress()
class GatewayReplica:
    """One replica."""

    def __init__(self, settings: Settings, model_server: Any) -> None:
        # Ray Serve writes what its own logger says to the replica's log file and the dashboard.
        logging.getLogger("fogtune").parent = logging.getLogger("ray.serve")
        if settings.keys is None and not is_loopback(_listens_on()):
            allowed = "allowed: args.keys, or http_options.host 127.0.0.1"
            raise InputError("http_options.host", f"{_listens_on()} given without keys; {allowed}")
        self._model_server = model_server
        self._rows = settings.max_batch_rows
        catalogue = Catalogue(Registry(Path(settings.run)))
        catalogue.refresh()
        self._service = Service(catalogue, settings, self._predict)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray Serve once the replica is there."""
        from .keys import Keys
        from .web import create_app

        settings = self._service.settings
        keys = Keys.load(Path(settings.keys)) if settings.keys else None
        self._guard = create_app(self._service, keys, settings.gateways)
        return self._guard

    def close(self) -> tuple[str, int]:
        """Let no more requests in; returns which replica this is, and how many it still answers."""
        self._guard.closed = True
        return serve.get_replica_context().replica_id.unique_id, self._guard.in_flight

    async def _predict(self, rows: Sequence[Row]) -> list[Outcome]:
        parts = [tuple(rows[i : i + self._rows]) for i in range(0, len(rows), self._rows)]
        answers = await asyncio.gather(*map(self._ask, parts))
        return [outcome for answer in answers for outcome in answer]

    async def _ask(self, rows: tuple[Row, ...]) -> list[Outcome]:
        while True:
            try:
                answer: list[Outcome] = await self._model_server.predict.remote(rows)
                return answer
            except BackPressureError:
                raise Overloaded("too many requests are waiting for the model") from None
            except DeploymentUnavailableError:
                raise Overloaded("no model server could be started; their logs say why") from None
            except (RayActorError, ReplicaUnavailableError):
                await asyncio.sleep(RETRY_S)


def _listens_on() -> str:
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    return str(client.http_config.host)


Gateway = serve.deployment(
    name="Gateway",
    ray_actor_options={"num_cpus": 0},
    graceful_shutdown_timeout_s=60,
)(GatewayReplica)
