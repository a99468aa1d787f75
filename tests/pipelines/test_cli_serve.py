"""The commands about serving, called as a person calls them: what they print, what they leave, how they refuse."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fogtune.pipelines.cli import app
from fogtune.platform.data.sources import load_table
from fogtune.platform.data.table import Raw
from fogtune.serve.keys import Keys, new_key
from fogtune.serve.local import local_service
from fogtune.serve.predictor import Predictor
from fogtune.serve.registry import Registry
from fogtune.serve.rollout import read_rollout
from fogtune.serve.rows import Row
from fogtune.serve.settings import Settings
from fogtune.serve.web import create_app

COMMAND = [sys.executable, "-c", "from fogtune.pipelines.cli import main; main()"]
TEXT = "the team won the match"
TOPIC = ("--task", "topic", "--variant", "fog:fog-0")
VQA = ("--task", "vqa", "--variant", "device:coach-0")
EXERCISE = ("--task", "exercise")

Web = Callable[..., AbstractContextManager[str]]
Expect = Callable[[Row], list[float]]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    result = invoke(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def assert_refused(result: Result, *mentioned: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for text in mentioned:
        assert text in result.stderr


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def expect(served: Path) -> Expect:
    """Predicts by the model itself."""
    predictor = Predictor(Registry(served), Settings(run=str(served)))

    def scores(row: Row) -> list[float]:
        (outcome,) = predictor.predict([row])
        return list(np.asarray(outcome).tolist())

    return scores


@pytest.fixture(scope="module")
def sample(served: Path) -> Callable[[str], Raw]:
    """The first value of a modality in the run's data."""
    config = Registry(served).config

    def first(modality: str) -> Raw:
        (source,) = {task.source for task in config.tasks.values() if modality in task.inputs and len(task.inputs) < 3}
        return load_table(config.sources[source], "source").modalities[modality][0]

    return first


class TestPredict:
    def test_text(self, served: Path, expect: Expect) -> None:
        wanted = expect(Row("topic", "fog:fog-0", 2, {"text": TEXT}))
        found = json.loads(done("predict", served, *TOPIC, "--input", f"text={TEXT}", "--json"))
        assert (found["task"], found["version"], found["variant"]) == ("topic", 2, "fog:fog-0")
        (prediction,) = found["predictions"]
        assert list(prediction["scores"].values()) == pytest.approx(wanted, abs=1e-5)
        first, *others = done("predict", served, *TOPIC, "--input", f"text={TEXT}").splitlines()
        assert first == prediction["label"]
        assert others[0].split() == [f"{max(wanted):.3f}", first]
        assert len(others) == len(wanted) + 1
        assert others[-1] == "(v2, fog:fog-0)"

    def test_variant_and_version(self, served: Path, expect: Expect) -> None:
        seen = set()
        for variant in ("fog:fog-0", "fog:fog-1"):
            for version in (1, 2):
                arguments = ("--task", "topic", "--variant", variant, "--version", version)
                found = json.loads(done("predict", served, *arguments, "--input", f"text={TEXT}", "--json"))
                assert (found["version"], found["variant"]) == (version, variant)
                scores = list(found["predictions"][0]["scores"].values())
                assert scores == pytest.approx(expect(Row("topic", variant, version, {"text": TEXT})), abs=1e-5)
                seen.add(tuple(scores))
        assert len(seen) == 4

    def test_image_beside_text(self, served: Path, expect: Expect, sample: Callable[[str], Raw]) -> None:
        pixels = sample("image")
        assert isinstance(pixels, np.ndarray)
        Image.fromarray(pixels).save("image.png")
        both = ("--input", "text=what is it?", "--input", "image=image.png")
        found = json.loads(done("predict", served, *VQA, *both, "--json"))
        wanted = expect(Row("vqa", "device:coach-0", 2, {"text": "what is it?", "image": pixels}))
        assert list(found["predictions"][0]["scores"].values()) == pytest.approx(wanted, abs=1e-5)
        lines = done("predict", served, *VQA, *both).splitlines()
        assert lines[-2] == f"  ... and {len(wanted) - 10} more, which --json shows"
        assert len(lines) == 13

    @pytest.mark.parametrize("suffix", ["csv", "npy"])
    def test_series(self, served: Path, expect: Expect, sample: Callable[[str], Raw], suffix: str) -> None:
        series = sample("imu")
        assert isinstance(series, np.ndarray)
        if suffix == "csv":
            np.savetxt("imu.csv", series, delimiter=",")
        else:
            np.save("imu.npy", series)
        found = json.loads(done("predict", served, *EXERCISE, "--input", f"imu=imu.{suffix}", "--json"))
        wanted = expect(Row("exercise", "global", 2, {"imu": series}))
        assert list(found["predictions"][0]["scores"].values()) == pytest.approx(wanted, abs=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "mentioned"),
        [
            (("--task", "weather", "--input", "text=a"), ("--task", "'weather'", "exercise, topic, vqa")),
            (("--task", "topic", "--input", "text=a"), ("--variant", "'global' has no head/topic", "fog:fog-0")),
            (
                ("--task", "topic", "--variant", "fog:fog-9", "--input", "text=a"),
                ("--variant", "'fog:fog-9'", "device:ID"),
            ),
            ((*TOPIC, "--version", "9", "--input", "text=a"), ("--version", "v9")),
            ((*TOPIC, "--version", "two", "--input", "text=a"), ("--version", "integer")),
            ((*TOPIC, "--input", "image=a.png"), ("--input", "'image=a.png'", "text=...")),
            ((*TOPIC, "--input", "a"), ("--input", "'a'", "text=...")),
            ((*TOPIC, "--input", "text=a", "--input", "text=b"), ("--input", "'text=b'", "once each")),
            (TOPIC, ("--input",)),
            (("--input", "text=a"), ("--task",)),
            ((*VQA, "--input", "image=none.png"), ("--input image", "'none.png'", "No such file")),
            ((*VQA, "--input", "image=."), ("--input image", "'.'", "Is a directory")),
            ((*VQA, "--input", "image=bad.csv"), ("--input.image", "is no image file")),
            ((*EXERCISE, "--input", "imu=none.csv"), ("--input imu", "'none.csv'", "No such file")),
            ((*EXERCISE, "--input", "imu=bad.csv"), ("--input", "'bad.csv' is no series", "allowed: npy, or CSV")),
            ((*EXERCISE, "--input", "imu=empty.csv"), ("--input", "'empty.csv' is no series", "allowed: npy, or CSV")),
            ((*EXERCISE, "--input", "imu=narrow.csv"), ("--input.imu", "has 2 channels; allowed: 6")),
            ((*EXERCISE, "--input", "imu=nan.csv"), ("--input.imu",)),
            ((*EXERCISE, "--input", "imu=bad.npy"), ("--input", "'bad.npy' is no series", "allowed: npy, or CSV")),
            ((*EXERCISE, "--input", "imu=objects.npy"), ("--input", "'objects.npy' is no series")),
            ((*EXERCISE, "--input", "imu=flat.npy"), ("--input.imu", "has 3 channels; allowed: 6")),
            ((*EXERCISE, "--input", "imu=deep.npy"), ("--input", "'deep.npy' is no series (float64 (1, 2, 6))")),
        ],
    )
    def test_wrong_input(
        self, served: Path, in_a_folder: Path, arguments: tuple[str, ...], mentioned: tuple[str, ...]
    ) -> None:
        Path("bad.csv").write_text("ax,ay\n1,2\n")
        Path("empty.csv").write_text("\n")
        Path("narrow.csv").write_text("1,2\n3,4\n")
        Path("nan.csv").write_text("1,2,3,4,5,nan\n")
        Path("bad.npy").write_text("no array")
        np.save("objects.npy", np.array([[{}]], dtype=object))
        np.save("flat.npy", np.zeros(3))
        np.save("deep.npy", np.zeros((1, 2, 6)))
        before = sorted(in_a_folder.iterdir())
        result = invoke("predict", served, *arguments)
        assert_refused(result, *mentioned)
        assert result.stdout == ""
        assert sorted(in_a_folder.iterdir()) == before
        assert not (served / "serving.json").exists()

    def test_no_run(self) -> None:
        Path("folder").mkdir()
        for given in ("nowhere", "folder"):
            assert_refused(invoke("predict", given, *TOPIC, "--input", "text=a"), given)

    def test_nothing_published(self, copied: Path) -> None:
        shutil.rmtree(copied / "modules")
        assert_refused(invoke("predict", copied, *TOPIC, "--input", "text=a"), "no version", code=1)


def test_predict_warns_of_nothing(served: Path) -> None:
    """By a process of its own: here, pytest hears of warnings and logs first."""
    ran = subprocess.run(
        [*COMMAND, "predict", str(served), *EXERCISE, "--input", "imu=nowhere.csv"], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "error: --input imu: 'nowhere.csv' cannot be read: No such file or directory\n"


@pytest.fixture
def web(listening: Callable[..., AbstractContextManager[str]]) -> Web:
    """Serves a run without Ray within a block; gives the URL."""

    def serve(run: Path, keys: Keys | None = None) -> AbstractContextManager[str]:
        return listening(create_app(local_service(Settings(run=str(run))), keys))

    return serve


class TestPredictByUrl:
    def test_the_same_as_offline(self, served: Path, sample: Callable[[str], Raw], web: Web) -> None:
        pixels, series = sample("image"), sample("imu")
        assert isinstance(pixels, np.ndarray)
        assert isinstance(series, np.ndarray)
        Image.fromarray(pixels).save("image.png")
        np.savetxt("imu.csv", series, delimiter=",")
        with web(served) as url:
            for arguments in (
                (*TOPIC, "--input", f"text={TEXT}"),
                (*VQA, "--input", "image=image.png", "--version", "1"),
                (*EXERCISE, "--input", "imu=imu.csv"),
            ):
                here, there = (json.loads(done("predict", of, *arguments, "--json")) for of in (served, f"{url}/"))
                (mine,), (theirs,) = here.pop("predictions"), there.pop("predictions")
                assert here == there
                assert mine["label"] == theirs["label"]
                assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-5)
            assert done("predict", url, *TOPIC, "--input", f"text={TEXT}").endswith("(v2, fog:fog-0)\n")

    def test_wrong_input(self, served: Path, web: Web) -> None:
        Path("narrow.csv").write_text("1,2\n3,4\n")
        with web(served) as url:
            for arguments, mentioned in (
                (("--task", "weather", "--input", "text=a"), "exercise, topic, vqa"),
                (("--task", "topic", "--input", "text=a"), "has no head/topic"),
                ((*TOPIC, "--version", "9", "--input", "text=a"), "v9"),
                ((*TOPIC, "--input", "image=a"), "text=..."),
                ((*EXERCISE, "--input", "imu=narrow.csv"), "has 2 channels"),
            ):
                assert_refused(invoke("predict", url, *arguments), mentioned)

    def test_with_a_key(self, served: Path, monkeypatch: pytest.MonkeyPatch, web: Web) -> None:
        key = new_key(Path("keys.yaml"), "me")
        with web(served, Keys.load(Path("keys.yaml"))) as url:
            command = ("predict", url, *TOPIC, "--input", f"text={TEXT}")
            assert done(*command, "--key", key).endswith("(v2, fog:fog-0)\n")
            assert_refused(invoke(*command), "401", "no API key")
            assert_refused(invoke(*command, "--key", key[:-1]), "401", "no such API key")
            broken = invoke(*command, "--key", f"{key}\nX: y")
            assert_refused(broken, "--key")
            assert key not in broken.stderr
            monkeypatch.setenv("FOGTUNE_KEY", f"{key}\n")
            assert done(*command).endswith("(v2, fog:fog-0)\n")

    def test_nobody_answers(self) -> None:
        for url in (f"http://127.0.0.1:{free_port()}", "http://127.0.0.1:port", "http://"):
            assert_refused(invoke("predict", url, *TOPIC, "--input", "text=a"), "no answer of a service", code=1)

    def test_nothing_to_serve_yet(self, copied: Path, web: Web) -> None:
        with web(copied) as url:
            shutil.rmtree(copied / "modules")
            deadline = time.monotonic() + 30
            while (result := invoke("predict", url, *TOPIC, "--input", "text=a")).exit_code == 0:
                assert time.monotonic() < deadline
            assert_refused(result, "503", "version", code=1)


class TestVersions:
    def test_listed(self, copied: Path) -> None:
        damaged = copied / "modules/v2/fog-0/head/topic.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
        *table, told = done("versions", copied).splitlines()
        header, first, second = [words for line in table if (words := line.replace("─", "").split())]
        assert header[:4] == ["version", "state", "exercise", "accuracy"]
        assert first[:2] == ["v1", "stable"]
        assert second[:2] == ["v2", "refused"]
        assert " ".join(second).endswith(
            " v2/fog-0/head/topic.safetensors: the file does not match the sha256 in manifest.json"
        )
        assert told == "serving v1 (the newest; later ones follow)"
        found = json.loads(done("versions", copied, "--json"))
        assert [info["state"] for info in found["versions"]] == ["stable", "refused"]
        assert found["versions"][0]["metrics"].keys() == {"exercise", "topic", "vqa"}
        assert found["rollout"] == {"pinned": None, "canary": None}

    def test_listed_without_torch(self, served: Path) -> None:
        """Its import takes longer than all else that these commands do."""
        code = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); " + COMMAND[-1]
        words = [sys.executable, "-c", code, "versions", str(served)]
        *_, told, found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        assert (told, found) == ("serving v2 (the newest; later ones follow)", "False")

    def test_promoted_and_rolled_back(self, copied: Path) -> None:
        def rollout() -> Any:
            return json.loads((copied / "serving.json").read_text())

        def states() -> list[str]:
            return [info["state"] for info in json.loads(done("versions", copied, "--json"))["versions"]]

        assert done("promote", copied, "1") == "serving v1 (pinned)\n"
        assert rollout() == {"pinned": 1, "canary": None}
        found = json.loads(done("predict", copied, *TOPIC, "--input", f"text={TEXT}", "--json"))
        assert found["version"] == 1
        told = "serving v1 (pinned), and v2 for 12.5 % of the requests\n"
        assert done("promote", copied, "v2", "--percent", "12.5") == told
        assert rollout() == {"pinned": 1, "canary": {"version": 2, "percent": 12.5}}
        assert states() == ["stable", "canary"]
        assert done("versions", copied).endswith(told)
        assert done("rollback", copied) == "serving v1 (pinned)\n"
        assert states() == ["stable", "ready"]
        assert done("promote", copied, "latest") == "serving v2 (the newest; later ones follow)\n"
        assert rollout() == {"pinned": None, "canary": None}
        assert done("rollback", copied) == "serving v1 (pinned)\n"
        assert_refused(invoke("rollback", copied), "none before v1")
        assert rollout() == {"pinned": 1, "canary": None}

    @pytest.mark.parametrize(
        ("arguments", "mentioned"),
        [
            (("9",), ("9", "v1, v2")),
            (("newest",), ("VERSION", "'newest'", "latest")),
            (("--", "-1"), ("VERSION", "'-1'", "latest")),
            (("2", "--percent", "0"), ("percent", "0")),
            (("2", "--percent", "101"), ("percent", "101")),
            (("2", "--percent", "nan"), ("percent", "nan")),
            (("1", "--percent", "5"), ()),
            (("latest", "--percent", "5"), ("percent", "5")),
        ],
    )
    def test_not_promoted(self, copied: Path, arguments: tuple[str, ...], mentioned: tuple[str, ...]) -> None:
        if arguments[0] == "1":
            done("promote", copied, "1")  # then it is no canary of itself
        before = read_rollout(copied)
        assert_refused(invoke("promote", copied, *arguments), *mentioned)
        assert read_rollout(copied) == before

    def test_a_pin_that_cannot_be_followed_is_told(self, copied: Path) -> None:
        done("promote", copied, "2")
        shutil.rmtree(copied / "modules/v2")
        assert done("versions", copied).endswith("serving v1 (v2 is pinned, but cannot be served)\n")
        shutil.rmtree(copied / "modules/v1")
        assert done("versions", copied).endswith("no version can be served yet\n")

    def test_damaged_and_missing(self, copied: Path) -> None:
        for command in (("versions",), ("promote", "1"), ("rollback",)):
            assert_refused(invoke(command[0], "nowhere", *command[1:]), "nowhere", "no such run")
        (copied / "serving.json").write_text("{")
        for command in (("versions",), ("promote", "1"), ("rollback",)):
            assert_refused(invoke(command[0], copied, *command[1:]), "serving.json", "damaged")
        assert (copied / "serving.json").read_text() == "{"


class TestKey:
    def test_made_and_printed_once(self) -> None:
        key = done("key", "camera-team").strip()
        admin = done("key", "me", "--admin", "--requests-per-s", "2.5").strip()
        file = Path("keys.yaml")
        assert file.stat().st_mode & 0o777 == 0o600
        keys = Keys.load(file)
        mine, theirs = keys.find(admin), keys.find(key)
        assert mine is not None
        assert theirs is not None
        assert (mine.name, mine.admin, mine.requests_per_s) == ("me", True, 2.5)
        assert (theirs.name, theirs.admin, theirs.requests_per_s) == ("camera-team", False, 50)
        assert key not in file.read_text()

    def test_refused(self) -> None:
        done("key", "me", "--file", "other.yaml")
        before = Path("other.yaml").read_bytes()
        for arguments in (("me",), ("a b",), ("you", "--requests-per-s", "0"), ("you", "--requests-per-s", "nan")):
            result = invoke("key", *arguments, "--file", "other.yaml")
            assert_refused(result, "other.yaml")
            assert result.stdout == ""
        assert Path("other.yaml").read_bytes() == before
        assert_refused(invoke("key", "you", "--file", "no/such/folder.yaml"))
        assert os.listdir() == ["other.yaml"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TestServeRefuses:
    """Before Ray is started: that would take long, and this process may have one."""

    @pytest.fixture(autouse=True)
    def without_ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray

        def fail(*_: object, **__: object) -> None:
            raise AssertionError("Ray is started")

        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", fail)
        monkeypatch.setattr(ray, "shutdown", lambda: None)  # of one that other tests share

    @pytest.mark.parametrize(
        ("arguments", "mentioned"),
        [
            (("--host", "0.0.0.0"), ("--keys", "0.0.0.0", "127.0.0.1")),
            (("--host", "::"), ("--keys", "::")),
            (("--port", "0"), ("--port", "1 to 65535")),
            (("--port", "65536"), ("--port", "1 to 65535")),
            (("--port", "http"), ("--port", "integer")),
            (("--host", "192.0.2.77", "--keys", "keys.yaml"), ("--port", "192.0.2.77")),
            (("--detach",), ("--detach", "--address")),
            (("--set", "nonsense=1"), ("--set", "nonsense", "max_batch_rows")),
            (("--set", "max_batch_rows=0"), ("--set", "max_batch_rows=0")),
            (("--set", "max_batch_rows"), ("--set", "max_batch_rows")),
            (("--set", "poll_s=60"), ("--set", "poll_s=60")),
            (("--set", "keys=keys.yaml"), ("--set", "--keys")),
            (("--set", "run=elsewhere"), ("--set", "RUN")),
            (("--keys", "none.yaml"), ("none.yaml", "cannot be read")),
            (("--keys", "damaged.yaml"), ("damaged.yaml", "sha256")),
            (("--keys", "empty.yaml"), ("empty.yaml", "holds no key")),
            (("--address", "127.0.0.1:1"), ("--address", "127.0.0.1:1")),
            (("--address", "here"), ("--address", "HOST:PORT")),
        ],
    )
    def test_wrong_input(self, served: Path, arguments: tuple[str, ...], mentioned: tuple[str, ...]) -> None:
        new_key(Path("keys.yaml"), "me")
        Path("damaged.yaml").write_text("- name: me\n  sha256: secret\n")
        Path("empty.yaml").write_text("[]\n")
        assert_refused(invoke("serve", served, *arguments), *mentioned)

    def test_a_port_that_is_taken(self, served: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert_refused(invoke("serve", served, "--port", port), "--port", str(port), "a free port")

    def test_no_run(self, copied: Path) -> None:
        assert_refused(invoke("serve", "nowhere"), "nowhere", "no such run")
        (copied / "config.yaml").write_text("rounds: none\n")
        assert_refused(invoke("serve", copied, "--port", free_port()), "rounds: 'none'")
