"""The HTTP application: both protocols and the page, the guard before them, and the watch over the run's directory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI

from . import docs_page, metrics, problems, static, v1, v2
from .guard import STATUSES, Guard
from .keys import Keys
from .samples import Samples
from .service import Service

log = logging.getLogger(__name__)


def create_app(service: Service, keys: Keys | None, replicas: int = 1) -> Guard:
    """What a gateway serves.

    Args:
        service: what is asked for.
        keys: who may ask; None for this machine's own processes alone.
        replicas: gateways that share the keys' rates.
    """

    @asynccontextmanager
    async def watching(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_watch(service))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    app = FastAPI(
        title="FogTune",
        version=version("fogtune"),
        docs_url=None,
        redoc_url=None,
        lifespan=watching,
        responses=problems.responses(*STATUSES),
    )
    problems.install(app)
    docs_page.install(app, keyed=keys is not None)
    samples = Samples(service.catalogue.registry.config)
    for routes in (v1.routes(service), v2.routes(service), static.routes(service, samples)):
        app.include_router(routes)
    app.include_router(metrics.routes(service.metrics))
    settings = service.settings
    return Guard(
        app,
        keys=keys,
        metrics=service.metrics,
        page=static.PATHS,
        max_body_bytes=settings.max_body_bytes,
        max_in_flight=settings.max_in_flight,
        body_timeout_s=settings.timeout_s,
        replicas=replicas,
    )


async def _watch(service: Service) -> None:
    """New versions and promotions are found within `poll_s`, by every gateway for itself."""
    catalogue = service.catalogue
    while True:
        try:
            await asyncio.to_thread(catalogue.refresh)
        except Exception:  # of any kind: what is served goes on, and the next look may be better
            log.exception("%s cannot be looked at", catalogue.registry.run)
        service.metrics.serving(*catalogue.numbers(), catalogue.refused)
        await asyncio.sleep(service.settings.poll_s)
