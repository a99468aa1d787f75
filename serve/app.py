"""The Ray Serve application; in a Serve configuration `import_path: fogtune.serve.app:build`, settings in `args`."""

# No `from __future__ import annotations`: Ray Serve makes Settings of `args` by the annotation itself, not by its name.

from pathlib import Path

from ray.serve import Application

from fogtune.platform.errors import InputError

from .gateway import Gateway
from .keys import Keys
from .model_server import ModelServer
from .registry import Registry
from .settings import Settings

SPARE = 64
"""Requests that reach a gateway beyond those that it lets in: it has to tell them so itself."""


def build(settings: Settings) -> Application:
    """The application of these settings.

    Raises:
        InputError: the run is none, or the file of keys is damaged.
    """
    run = Path(settings.run).resolve()
    if not (run / "run.json").is_file():
        raise InputError("run", f"{settings.run!r} is no run; allowed: the path of a run's directory")
    Registry(run).config  # noqa: B018 (read for its errors: here they are one line)
    keys = None if settings.keys is None else str(Path(settings.keys).resolve())
    if keys is not None:
        Keys.load(Path(keys))
    settings = settings.model_copy(update={"run": str(run), "keys": keys})
    gateway = Gateway.options(num_replicas=settings.gateways, max_ongoing_requests=settings.max_in_flight + SPARE)
    application: Application = gateway.bind(settings, ModelServer.bind(settings))
    return application
