"""A run's log: what the process that works on the run tells, as a JSON object a line, in the run's directory.

Whoever logs names the round in `extra={"round": number}`, where there is one. What other processes of the run tell goes
where Ray keeps it (`actors/logs.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from .record import dump_json

LOGGER = "fogtune"
"""The logger above all of FogTune's."""
NAME = "log.jsonl"
MOST_BYTES = 16_000_000
"""Of the log; what is longer goes on in a new one, and the one before is kept as `log.jsonl.1`."""


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Within the block, what is logged is added to the log of the run in this directory, from INFO on.

    Others hear what they would hear without it. Where it cannot be written, it is silent: a run does not end for that.
    """
    logger = logging.getLogger(LOGGER)
    level, propagates = logger.level, logger.propagate
    file = _File(path / NAME, maxBytes=MOST_BYTES, backupCount=1, encoding="utf-8", delay=True)
    file.setFormatter(_JsonLines(path.name))
    others = _Others(logger.getEffectiveLevel())
    logger.setLevel(min(logging.INFO, others.level))
    logger.propagate = False
    logger.addHandler(file)
    logger.addHandler(others)
    try:
        yield
    finally:
        logger.removeHandler(others)
        logger.removeHandler(file)
        logger.setLevel(level)
        logger.propagate = propagates
        file.close()


class _JsonLines(logging.Formatter):
    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def format(self, record: logging.LogRecord) -> str:
        found = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "run": self._run,
            "round": getattr(record, "round", None),
            "where": record.name.removeprefix(f"{LOGGER}."),
            "message": record.getMessage(),
        }
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return dump_json(found)


class _File(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk ends a run by the files that it cannot do without, and says so."""


class _Others(logging.Handler):
    """Those who listen above FogTune's logger, at the level that held without the run's log."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().handle(record)
