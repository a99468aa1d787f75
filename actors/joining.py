"""Joins a Ray cluster, or starts Ray on this machine. Imports Ray and nothing else that takes long."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

import ray
from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]
from ray.exceptions import RayError

from fogtune.platform.errors import InputError

TOKEN = "~/.ray/auth_token"
"""Where Ray looks for a cluster's token, unless told otherwise."""


def join(address: str | None, namespace: str, on_stage: Callable[[str], None]) -> None:
    """Connect this process to the cluster at an address, or to one that is started here and ends with it.

    Raises:
        InputError: it cannot be started, or joined.
    """
    # FogTune sends nothing to anybody; who wants Ray's usage statistics sets the variable.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's workers yield to every other process by default, and would hardly run beside one that computes.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Where a round's sums are freed a second late, as by default, the store holds those of two rounds.
    os.environ.setdefault("RAY_free_objects_period_milliseconds", "50")
    if address is not None and "RAY_AUTH_MODE" not in os.environ and _has_token():
        # Ray itself looks for it only where it finds the cluster by itself, and else tries without, in vain.
        os.environ["RAY_AUTH_MODE"] = "token"
        RayConfig.initialize("")  # it has read the environment when it was imported
    on_stage(f"joining Ray at {address}" if address else "starting Ray")
    if address is not None and address != "auto":
        require_reachable(address)
    try:
        context = ray.init(
            address=address or "local", namespace=namespace, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, RayError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        if address is None:
            raise InputError("execution.runner", f"ray cannot start here ({reason}); allowed: ray, local") from error
        remedy = f"start a cluster with ray start, and copy its token, if it has one, to {TOKEN}"
        problem = f"{address!r} cannot be joined ({reason}); {remedy}"
        raise InputError("execution.address", problem) from error
    if context.dashboard_url:
        on_stage(f"Ray dashboard: http://{context.dashboard_url}")


def require_reachable(address: str) -> None:
    """InputError where nobody answers: Ray itself tries for a minute, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError("execution.address", f"{address!r} given; allowed: auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        problem = f"{address!r} cannot be reached ({error}); start a cluster with ray start"
        raise InputError("execution.address", problem) from error


def _has_token() -> bool:
    """Whether Ray would find a token here; a cluster without one does not mind it."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", TOKEN)
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(path).expanduser().is_file()
