"""cluster.yaml is what `ray up` of the installed Ray accepts."""

from __future__ import annotations

import json
import os
import re
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private.label_utils import parse_node_labels_from_yaml_file

from fogtune.actors.machines import LABEL

CLUSTER_FILE = Path(__file__).resolve().parents[1] / "cluster.yaml"


def accept(cluster: dict[str, Any]) -> None:
    """Raise jsonschema.ValidationError for what Ray's own schema refuses."""
    jsonschema.validate(cluster, json.loads((files("ray.autoscaler") / "ray-schema.json").read_text()))


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """The file as it stands."""
    loaded: dict[str, Any] = yaml.safe_load(CLUSTER_FILE.read_text())
    return loaded


@pytest.fixture(scope="module")
def in_a_cloud(cluster: dict[str, Any]) -> dict[str, Any]:
    """The file as its closing comment changes it."""
    _, comment = CLUSTER_FILE.read_text().split("# In a cloud, ")
    lines = re.findall(r"^# ?(.*)$", comment, flags=re.MULTILINE)
    replaced: dict[str, Any] = yaml.safe_load("\n".join(lines))
    return cluster | replaced


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["type"] == "local"
    accept(cluster)


def test_ray_accepts_it_with_the_lines_for_a_cloud(in_a_cloud: dict[str, Any]) -> None:
    assert in_a_cloud["provider"]["type"] == "aws"
    assert in_a_cloud["head_node_type"] in in_a_cloud["available_node_types"]
    accept(in_a_cloud)


def test_ray_refuses_what_it_does_not_know(cluster: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError, match="min_workers"):
        accept(cluster | {"min_workers": 2})


def test_workers_find_the_head(cluster: dict[str, Any]) -> None:
    assert "--head --port=6379" in cluster["head_start_ray_commands"][-1]
    assert "--address=$RAY_HEAD_IP:6379" in cluster["worker_start_ray_commands"][-1]


def test_ray_is_found_and_shows_the_token(cluster: dict[str, Any], tmp_path: Path) -> None:
    """`ray down` says `ray stop`. A head takes the token from its file unasked; a worker does not, and is refused."""
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    (tmp_path / ".bashrc").touch()
    tell = ["bash", "-c", '. ~/.bashrc; echo "$PATH $RAY_AUTH_MODE"']
    for _ in range(2):  # the second time, nothing is added
        subprocess.run(["bash", "-euc", cluster["setup_commands"][-1]], env={"HOME": str(tmp_path)}, check=True)
        told = subprocess.run(tell, env={"HOME": str(tmp_path), "PATH": "/bin"}, capture_output=True, text=True)
        assert told.stdout == f"{tmp_path}/fogtune/.venv/bin:/bin token\n"


def test_each_machine_says_what_it_is(cluster: dict[str, Any], in_a_cloud: dict[str, Any], tmp_path: Path) -> None:
    for command in (cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]):
        assert "--labels-file=$HOME/fogtune-labels.yaml" in command
    for command in cluster["initialization_commands"]:  # on a machine that says nothing
        subprocess.run(["bash", "-euc", command], env=os.environ | {"HOME": str(tmp_path)}, check=True)
    assert parse_node_labels_from_yaml_file(str(tmp_path / "fogtune-labels.yaml")) == {}
    labels = {name: kind["labels"] for name, kind in in_a_cloud["available_node_types"].items()}
    assert labels == {"head": {LABEL: "cloud"}, "fog": {LABEL: "fog-0"}, "device": {LABEL: "camera-0"}}
