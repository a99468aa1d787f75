"""Serving a run: puts its application on a Ray cluster, started here or there already, and takes it off again."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

from pydantic import ValidationError

from fogtune.platform.config.describe import listed, shown
from fogtune.platform.config.overrides import apply_overrides
from fogtune.platform.errors import FogTuneError, InputError
from fogtune.serve.loopback import is_loopback
from fogtune.serve.settings import Settings

from .interrupts import terminated_as_interrupted

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

DRAINING_S = 60.0
"""How long the end of a service waits for the requests inside."""

HAPROXY_PORTS = ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")
"""Where HAProxy counts requests. A Ray started here gets free ones: with the usual ones two on a machine clash."""


class NotServed(FogTuneError):
    """Ray, or the service on it, did not start."""


def settings_of(run: Path, keys: str | None, overrides: Sequence[str]) -> Settings:
    """The settings for a run, with `field=value` overrides. InputError for the first that is not allowed."""
    values: dict[Any, Any] = {}
    apply_overrides(values, overrides)
    allowed = [name for name in Settings.model_fields if name not in ("run", "keys")]
    for name, argument in (("run", "RUN"), ("keys", "--keys")):
        if name in values:
            raise InputError("--set", f"{name} is given as {argument}; allowed: {listed(allowed)}")
    try:
        return Settings.model_validate(values | {"run": str(run.resolve()), "keys": keys})
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name = ".".join(map(str, found["loc"]))
        if found["type"] == "extra_forbidden":
            raise InputError("--set", f"{name} is no setting; allowed: {listed(allowed)}") from None
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
        NotServed: Ray, or the service on it, does not start.
    """
    with _deployed(settings, host, port, address, on_stage) as url:
        try:
            yield url
        finally:
            on_stage("answering what has been asked, then ending")
            _drain(settings.gateways)


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
    """Return when this process is interrupted or asked to terminate; the next signal is heard as before again."""
    done = Event()
    before = {number: signal.signal(number, lambda *_: done.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    while not done.wait(3600):  # not for ever in one call: a signal would not be heard before its end everywhere
        pass
    for number, handler in before.items():
        signal.signal(number, handler)


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
        for name, free in zip(HAPROXY_PORTS, _free_ports(len(HAPROXY_PORTS)), strict=True):
            os.environ.setdefault(name, str(free))
    from ray import serve
    from ray.exceptions import RayError

    from fogtune.serve.app import build

    application = build(settings)
    with ExitStack() as undoing:
        started_ray = not ray.is_initialized()
        if started_ray:
            _require_free(host, port, address)
            undoing.callback(ray.shutdown)
            _join(address, on_stage)
        undoing.enter_context(terminated_as_interrupted())  # in place of what Ray does: it prints the stack
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        try:
            if _start_serve(host, port):
                if not stays and not (started_ray and address is None):
                    undoing.callback(serve.shutdown)
            elif not stays and NAME in serve.status().applications:
                raise InputError("--address", "a run is served there already; allowed: one on a cluster")
            if not stays:
                undoing.callback(serve.delete, NAME)
            on_stage("starting gateway and model servers")
            serve.run(application, name=NAME)
        except (RayError, RuntimeError) as error:
            raise NotServed(_cause(error)) from error
        bracketed = f"[{host}]" if ":" in host else host
        yield f"http://{bracketed}:{port}"


def _join(address: str | None, on_stage: Callable[[str], None]) -> None:
    from fogtune.actors.joining import join

    try:
        join(address, NAME, on_stage)
    except InputError as error:
        if address is None:
            raise NotServed(error.problem.partition(";")[0]) from error
        raise InputError("--address", error.problem) from error


def _drain(gateways: int) -> None:
    """Wait until every gateway has answered its last request.

    Ray Serve ends model servers at the same time as gateways, which then wait for an answer in vain.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    deadline_s = time.monotonic() + DRAINING_S
    idle: set[str] = set()
    with suppress(RayError, RayServeException, TimeoutError):  # the service is taken off anyhow
        gateway: Any = serve.get_app_handle(NAME)
        gateway._init(_run_router_in_separate_loop=True)  # this thread has no event loop
        while len(idle) < gateways and time.monotonic() < deadline_s:
            replica, in_flight = gateway.close.remote().result(timeout_s=DRAINING_S)  # any one of them
            if in_flight == 0:
                idle.add(replica)
            else:
                time.sleep(0.05)


def _cause(error: Exception) -> str:
    """Ray tells of what failed by all the tracebacks on its way; their last line has the cause."""
    from ray import serve

    application = serve.status().applications.get(NAME)
    told = [deployment.message for deployment in application.deployments.values()] if application else []
    return next(filter(None, [*told, str(error)])).strip().splitlines()[-1]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [int(bound.getsockname()[1]) for bound in sockets]


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
