"""What actors log, as Ray's files and the log pages of its dashboard have it: time, level, run, round, actor."""

from __future__ import annotations

import logging

import ray

from fogtune.platform.run.logs import LOGGER

FORMAT = "%(asctime)s %(levelname)s %(run)s round %(round)s %(actor)s: %(message)s"


def log_as_actor(run: str, actor: str) -> None:
    """Let the actor that this process is log so, on standard error, from INFO on; does nothing in any other process."""
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return
    known = {"run": run, "actor": actor, "round": "-"}
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT, defaults=known))
    logger = logging.getLogger(LOGGER)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
