"""A service in this process, without Ray: for one prediction on the command line, for notebooks and for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from .catalogue import Catalogue
from .predictor import Predictor
from .registry import Registry
from .rows import Outcome, Row
from .service import Service
from .settings import Settings


def local_service(settings: Settings) -> Service:
    """A run's heads as they are served now. The model is loaded by the first prediction that is not refused before.

    Raises:
        InputError: the run's configuration is missing or damaged.
    """
    catalogue = Catalogue(Registry(Path(settings.run)))
    catalogue.refresh()
    predictor = cache(lambda: Predictor(Registry(Path(settings.run)), settings))
    worker = ThreadPoolExecutor(1, "predictor")  # a predictor is for one thread

    async def predict_rows(rows: Sequence[Row]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(worker, lambda: predictor().predict(rows))

    return Service(catalogue, settings, predict_rows)
