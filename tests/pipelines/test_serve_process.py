"""`fogtune serve` as a process of its own, from its start to Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from tritonclient.http import InferenceServerClient, InferInput

COMMAND = [sys.executable, "-c", "from fogtune.pipelines.cli import main; main()"]
TEXT = "the team won the match"


def in_flight(url: str) -> float:
    with urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("fogtune_in_flight_requests "))


@pytest.fixture
def starting() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in a process group of its own, as a shell does, with an ear for Ctrl-C."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                process_group=0,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where tests run in the background
            )
        )
        return running[-1]

    yield start
    for process in running:
        process.terminate()  # where a test has failed
        process.communicate(timeout=120)


def test_from_start_to_ctrl_c(
    served: Path,
    starting: Callable[..., subprocess.Popen[str]],
    alive: Callable[[list[psutil.Process]], list[str]],
) -> None:
    """A service of its own Ray: what is asked when Ctrl-C comes is answered, then nothing of it runs any more."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = starting("serve", served, "--port", port)
    assert running.stdout is not None
    url = f"http://127.0.0.1:{port}"
    assert any(line.startswith(f"serving {served} at {url} ") for line in running.stdout), running.communicate()
    started = psutil.Process(running.pid).children(recursive=True)
    assert any("ray::ServeReplica:fogtune:ModelServer" in command for command in alive(started))

    asked = ["predict", url, "--task", "topic", "--variant", "fog:fog-0", "--input", f"text={TEXT}", "--json"]
    found = json.loads(subprocess.run([*COMMAND, *asked], capture_output=True, check=True).stdout)
    (prediction,) = found["predictions"]
    with InferenceServerClient(f"127.0.0.1:{port}") as client:
        text = InferInput("text", [1, 1], "BYTES").set_data_from_numpy(np.array([[TEXT]], dtype=object))
        answer = client.infer("topic", [text], parameters={"variant": "fog:fog-0"})
        np.testing.assert_allclose(answer.as_numpy("scores")[0], list(prediction["scores"].values()), rtol=0, atol=1e-6)
        assert answer.as_numpy("label").item().decode() == prediction["label"]

    body = json.dumps({"inputs": [{"text": TEXT}]}).encode()
    with socket.create_connection(("127.0.0.1", port)) as slow:
        head = f"POST /v1/tasks/topic:predict?variant=fog:fog-0 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        head += "Content-Type: application/json\r\n"
        slow.sendall(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:5])
        deadline = time.monotonic() + 60
        while in_flight(url) < 1:
            assert time.monotonic() < deadline
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all that the command has started
        assert running.stdout.readline() == "answering what has been asked, then ending ...\n"
        time.sleep(1)
        slow.sendall(body[5:])
        answered = b"".join(iter(lambda: slow.recv(65536), b""))
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answered.partition(b"\r\n\r\n")[2]) == found

    out, err = running.communicate(timeout=120)
    assert (running.returncode, out, err) == (0, "", "")
    deadline = time.monotonic() + 60
    while left := alive(started):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
