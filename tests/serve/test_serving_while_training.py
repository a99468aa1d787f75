"""A run is served on the Ray cluster that trains it, from its first version on."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from fogtune.pipelines import fine_tune
from fogtune.pipelines.serving import serving
from fogtune.platform.config import Config
from fogtune.platform.run import RoundRecord
from fogtune.serve.settings import Settings


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=60) as found:
        return json.load(found)


def test_every_version_is_served_as_it_comes(watches: Callable[..., Config], shared_ray: None, tmp_path: Path) -> None:
    """The hosts of devices have taken all processors of the cluster."""
    urls: list[str] = []
    served: list[int] = []

    def after_round(record: RoundRecord) -> None:
        if not urls:
            (run,) = tmp_path.glob("*/")
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            urls.append(service.enter_context(serving(Settings(run=str(run), poll_s=0.1), port=port)))
        else:
            time.sleep(0.5)  # the round before is published by now
            served.append(ask(f"{urls[0]}/v1/tasks/exercise:predict", {"inputs": [{"imu": [[0.0] * 6]}]})["version"])

    with ExitStack() as service:
        run = fine_tune.run(watches("execution.runner=ray", f"output.directory={tmp_path}"), on_event=after_round)
        assert run.status == "completed"
        time.sleep(1)
        states = {info["version"]: info["state"] for info in ask(f"{urls[0]}/v1/versions")["versions"]}
    assert states == {1: "ready", 2: "ready", 3: "ready", 4: "stable"}
    assert served[-1] >= served[0] >= 1
    assert len(served) == 3
