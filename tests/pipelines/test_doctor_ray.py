"""`fogtune doctor`, what concerns Ray: each check says what it found, and what to do."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import pytest

from fogtune.pipelines import doctor_ray
from fogtune.pipelines.doctor_ray import Versions, cluster, open_files, ports, same_versions, shared_memory

OURS = {"python": "3.11.9", "ray": "2.60.0", "fogtune": "0.1.0 (12345678)"}


def test_who_has_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = ports({port: "Ray's head"})
        assert found.state == "warning"
        assert found.found.startswith(f"{port} (Ray's head) is taken by ")
        assert found.found.endswith(f"(process {os.getpid()})")
        assert "--port" in found.remedy
    assert ports({port: "Ray's head"}).found == f"{port} are free"


def test_a_low_limit_of_open_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_files().found
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert (open_files().state, open_files().found) == ("warning", "at most 4096 a process")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    assert (open_files().state, open_files().found) == ("ok", "no limit")


def test_shared_memory_is_held_against_rays_object_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert shared_memory(tmp_path / "none").state == "warning"
    monkeypatch.setattr(doctor_ray, "free_memory_bytes", lambda: 0)
    assert shared_memory(tmp_path).state == "ok"
    monkeypatch.setattr(doctor_ray, "free_memory_bytes", lambda: 10**18)
    found = shared_memory(tmp_path)
    assert found.state == "warning"
    assert found.found.endswith("less than the 300000 TB of Ray's object store")
    assert "--shm-size" in found.remedy


def test_a_cluster_is_counted_and_its_versions_compared(shared_ray: None) -> None:
    counted, compared = cluster("auto")
    assert (counted.state, counted.found) == ("ok", "1 machine, 2 processors")
    assert compared.state == "ok"
    assert "ray 2." in compared.found
    assert "fogtune 0." in compared.found


@pytest.mark.parametrize(
    ("found", "state", "text"),
    [
        ({"a": OURS, "b": OURS}, "ok", "python 3.11.9, ray 2.60.0, fogtune 0.1.0 (12345678) on all"),
        ({"a": OURS, "b": OURS | {"ray": "2.59.0"}}, "failure", "b: python 3.11.9, ray 2.59.0"),
        ({"a": OURS, "b": None}, "failure", "no task ran within 60 s on b"),
        ({"a": OURS | {"fogtune": "none"}}, "failure", "fogtune none"),
    ],
)
def test_versions_must_be_the_same(found: dict[str, Versions | None], state: str, text: str) -> None:
    check = same_versions(found)
    assert check.state == state
    assert text in check.found
    assert bool(check.remedy) == (state == "failure")
