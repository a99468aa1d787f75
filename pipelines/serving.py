"""Serving a run: puts its application on a Ray cluster, started here or there already, and takes it off again."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from pydantic import ValidationError

from fogtune.platform.config.describe import listed, shown
from fogtune.platform.config.overrides import apply_overrides
from fogtune.platform.errors import InputError
from fogtune.serve.loopback import is_loopback
from fogtune.serve.settings import Settings

NAME = "fogtune"
"""Of the Serve application."""

RAY_ENVIRONMENT = {
    # HAProxy, which comes with Ray Serve on Linux, hands requests to the gateway itself, without a hop over an actor.
    "RAY_SERVE_ENABLE_HA_PROXY": str(int(sys.platform == "linux")),
    # Fewer threads to switch between, and gRPC between gateway and model servers.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**30),
    # How long a service that ends still listens for requests of a load balancer that does not know yet.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "60",
}
"""What makes Ray Serve fast: a third of its latency at one client. Read when Ray starts: `ray start` needs it, too."""


def settings_of(run: Path, keys: str | None, overrides: Sequence[str]) -> Settings:
    """The settings for a run, with `field=value` overrides. InputError for the first that is not allowed."""
    values: dict[Any, Any] = {}
    apply_overrides(values, overrides)
    try:
        return Settings.model_validate(values | {"run": str(run.resolve()), "keys": keys})
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name = ".".join(map(str, found["loc"]))
        if found["type"] == "extra_forbidden":
            raise InputError("--set", f"{name} is no setting; allowed: {listed(Settings.model_fields)}") from None
        raise InputError("--set", f"{name}={shown(found['input'])}; {found['msg'].lower()}") from None


@contextmanager
def serving(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8000,
    address: str | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """Serve a run within the block; at its end answer what has been asked, then leave the cluster as it was.

    Args:
        settings: which run, and how.
        host: interface that the HTTP proxies listen on; without keys only a loopback one.
        port: their port.
        address: Ray cluster to join; None starts one here, which ends with the block. A process that is connected to
            Ray serves there.
        on_stage: is told what is going on.

    Yields:
        The URL of the service.

    Raises:
        InputError: something given is not allowed, or the port is taken.
    """
    with _deployed(settings, host, port, address, on_stage) as url:
        try:
            yield url
        finally:
            from ray import serve

            on_stage("answering what has been asked")
            serve.delete(NAME)


def deploy(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8000,
    address: str = "auto",
    on_stage: Callable[[str], None] = lambda _: None,
) -> str:
    """Serve a run on a cluster beyond the life of this process; arguments, errors and the URL as in `serving`."""
    with _deployed(settings, host, port, address, on_stage, stays=True) as url:
        return url


def wait_for_signal() -> None:
    """Return when this process is interrupted or asked to terminate."""
    done = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    while not done.wait(3600):  # not for ever in one call: a signal would not be heard before its end everywhere
        pass


@contextmanager
def _deployed(
    settings: Settings,
    host: str,
    port: int,
    address: str | None,
    on_stage: Callable[[str], None],
    *,
    stays: bool = False,
) -> Iterator[str]:
    if settings.keys is None and not is_loopback(host):
        raise InputError("--keys", f"none given with --host {host}; allowed without keys: 127.0.0.1, ::1, localhost")
    if not 0 < port < 65536:
        raise InputError("--port", f"{port} given; allowed: 1 to 65535")
    on_stage("loading libraries")
    import ray

    if address is None and not ray.is_initialized():
        for name, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    from ray import serve

    from fogtune.serve.app import build

    application = build(settings)
    started_ray = not ray.is_initialized()
    if started_ray:
        from fogtune.actors.ray_runner import join

        _require_free(host, port, address)
        join(address, NAME, on_stage)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    started_serve = False
    try:
        started_serve = _start_serve(host, port)
        on_stage("starting gateway and model servers")
        serve.run(application, name=NAME)
        bracketed = f"[{host}]" if ":" in host else host
        yield f"http://{bracketed}:{port}"
    finally:
        if started_serve and not stays and not started_ray:
            serve.shutdown()  # type: ignore[no-untyped-call]
        if started_ray:
            ray.shutdown()


def _require_free(host: str, port: int, address: str | None) -> None:
    """Ray would try for long, and say it in a log."""
    if address is not None:
        return  # the proxies run elsewhere, or run already
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            problem = f"{port} cannot be bound on {host} ({error.strerror}); allowed: a free port"
            raise InputError("--port", problem) from None


def _start_serve(host: str, port: int) -> bool:
    """Start Serve unless it runs on the cluster. InputError if it listens elsewhere: that is fixed while it runs."""
    from ray import serve
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        return True
    there = client.http_config
    if (there.host, there.port) != (host, port):
        problem = f"{host}:{port} given, but Serve on this cluster listens on {there.host}:{there.port}; allowed: that"
        raise InputError("--port", problem)
    return False
