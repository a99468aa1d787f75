"""`examples/serve.yaml` on a Ray cluster that runs already, and a service that comes and goes there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from fogtune.pipelines import fine_tune
from fogtune.platform.config import Config
from fogtune.serve.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


def until(found: Callable[[], Any], limit_s: float = 120) -> Any:
    """What is found at last."""
    deadline = time.monotonic() + limit_s
    while not (value := found()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
    return value


def ask(url: str, body: Any = None) -> Any:
    """The answer; None while nobody gives one."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=30) as answer:
            return json.load(answer)
    except OSError:
        return None


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster of its own."""

    address: str
    dashboard: str
    environment: dict[str, str]

    def serve(self, command: str, *arguments: object) -> None:
        """Ray Serve's command."""
        called = [str(BIN / "serve"), command, "-a", self.dashboard, *map(str, arguments)]
        subprocess.run(called, env=self.environment, check=True, capture_output=True, timeout=120)

    def served(self) -> dict[str, Any]:
        """What the dashboard says of Ray Serve."""
        found: dict[str, Any] = until(lambda: ask(f"{self.dashboard}/api/serve/applications/"))
        return found

    def shut_down(self) -> None:
        """End Ray Serve; what is deployed while its controller still ends would be lost."""
        self.serve("shutdown", "-y")
        until(lambda: not self.served()["controller_info"])


@pytest.fixture(scope="module")
def cluster(ray_folder: Callable[[], Path]) -> Iterator[Cluster]:
    gcs, dashboard, agent, client, metrics, stats = free_ports(6)
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
    }
    environment.pop("RAY_ADDRESS", None)
    arguments = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    arguments += [f"--ray-client-server-port={client}"]
    folder = ray_folder()
    arguments += ["--num-cpus=2", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
    with (folder / "out").open("w+") as out:
        command = [str(BIN / "ray"), "start", "--head", "--block", *arguments]
        head = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        try:
            url = f"http://127.0.0.1:{dashboard}"
            until(lambda: ask(f"{url}/api/version") or head.poll() is not None)
            assert head.poll() is None, (folder / "out").read_text()
            yield Cluster(f"127.0.0.1:{gcs}", url, environment)
        finally:
            head.terminate()
            head.wait(60)


@pytest.fixture(scope="module")
def run(bare: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds with versions 1 and 2, and heads of each region's own."""
    own_heads = 'federation.modules=[{"match": "head/*", "scope": "fog"}]'
    config = bare("rounds=2", own_heads, f"output.directory={tmp_path_factory.mktemp('runs')}")
    return fine_tune.run(config).directory.path


@pytest.fixture
def example(run: Path, tmp_path: Path) -> Callable[[str], tuple[Path, str]]:
    """Writes the example for a host, with a run and a free port; its path, and the URL of the service."""

    def write(host: str) -> tuple[Path, str]:
        config = yaml.safe_load((ROOT / "examples/serve.yaml").read_text())
        (port,) = free_ports(1)
        config["http_options"] |= {"host": host, "port": port}
        config["applications"][0]["args"]["run"] = str(run)
        path = tmp_path / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        return path, f"http://127.0.0.1:{port}"

    return write


def test_the_example_is_a_serve_configuration() -> None:
    """Every field is one of Ray Serve's, or of the settings."""
    config = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "examples/serve.yaml").read_text()))
    (application,) = config.applications
    assert Settings.model_validate(application.args).keys is None
    assert (config.http_options.host, config.http_options.port) == ("127.0.0.1", 8000)
    assert [deployment.name for deployment in application.deployments] == ["ModelServer"]


def test_a_service_comes_and_goes(cluster: Cluster, run: Path) -> None:
    """`fogtune serve --address`: at its end the cluster is as it was."""
    (port,) = free_ports(1)
    command = [str(BIN / "fogtune"), "serve", str(run), "--address", cluster.address, "--port", str(port)]
    running = subprocess.Popen(
        command, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        assert any(line.startswith("serving ") for line in running.stdout), running.communicate()
        assert ask(f"http://127.0.0.1:{port}/v2/health/ready") == {"ready": True}
        assert cluster.served()["applications"]["fogtune"]["status"] == "RUNNING"
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=120)
    assert running.returncode == 0
    assert cluster.served()["applications"] == {}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_the_example_is_deployed(cluster: Cluster, example: Callable[[str], tuple[Path, str]]) -> None:
    path, url = example("127.0.0.1")
    cluster.serve("deploy", path)
    until(lambda: ask(f"{url}/v2/health/ready"))
    body = {"inputs": [{"imu": [[0.5, 1, 2, -3, 4, 5]]}]}
    found = until(lambda: ask(f"{url}/v1/tasks/exercise:predict?variant=fog:fog-1", body))
    assert (found["version"], found["variant"], len(found["predictions"])) == (2, "fog:fog-1", 1)
    cluster.shut_down()


def test_an_open_service_without_keys_is_not_deployed(
    cluster: Cluster, example: Callable[[str], tuple[Path, str]]
) -> None:
    path, _ = example("0.0.0.0")
    cluster.serve("deploy", path)

    def refused() -> str:
        deployments = cluster.served()["applications"].get("fogtune", {}).get("deployments", {})
        return str(deployments.get("Gateway", {}).get("message", ""))

    last = until(refused).splitlines()[-1]
    assert "http_options.host: 0.0.0.0 given without keys; allowed: args.keys" in last
    cluster.shut_down()
