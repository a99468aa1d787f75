"""The command line: exit codes, one-line errors, JSON, and what may not be imported for help."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import fogtune.pipelines
from fogtune.pipelines.cli import app
from fogtune.platform.config import Config
from fogtune.platform.config.load import load_config
from fogtune.platform.errors import RunFailed
from fogtune.platform.run import RoundRecord, RunDirectory

MakeRun = Callable[..., RunDirectory]

CONFIG = """
rounds: 2
topology: {kind: counted, tiers: [{name: fog, count: 1}]}
devices: [{name: reader, count: 2, modalities: [text], tasks: [topic]}]
sources: {news: {kind: embedded, asset: bbc-news, partition: {kind: iid}}}
tasks: {topic: {source: news, inputs: [text], label: topic}}
"""


class FakeRun:
    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.status = directory.info.status


class FakeFineTune(ModuleType):
    """Stands for `fogtune.pipelines.fine_tune`: emits two rounds, then ends as it is told."""

    def __init__(self, make_run: MakeRun, record: Callable[..., RoundRecord]) -> None:
        super().__init__("fogtune.pipelines.fine_tune")
        self.make_run, self.record = make_run, record
        self.status, self.failure = "completed", None
        self.configs: list[Config] = []
        self.resumed: list[Any] = []

    def run(self, config: Config, *, on_event: Any = None, on_stage: Any = None) -> FakeRun:
        self.configs.append(config)
        on_stage("loading data")
        print("a library talks")
        for number in (1, 2):
            on_event(self.record(number))
        if self.failure:
            raise self.failure
        error = "round 2: too few" if self.status == "failed" else None
        return FakeRun(self.make_run(rounds=2, status=self.status, error=error))

    def resume(
        self, path: Path, *, on_event: Any, on_stage: Any, address: str | None, from_round: int | None
    ) -> FakeRun:
        self.resumed.append((path, address, from_round))
        return self.run(None, on_event=on_event, on_stage=on_stage)  # type: ignore[arg-type]


@pytest.fixture
def fine_tune(
    make_run: MakeRun, record: Callable[..., RoundRecord], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> FakeFineTune:
    fake = FakeFineTune(make_run, record)
    presets, early = ModuleType("fogtune.pipelines.presets"), ModuleType("fogtune.pipelines.early")
    early.ray_beside_libraries = lambda *_: nullcontext()  # type: ignore[attr-defined]
    (tmp_path / "small.yaml").write_text(CONFIG)

    def default() -> Config:
        """A small one.

        More about it.
        """
        return load_config(tmp_path / "small.yaml")

    presets.PRESETS = {"default": default}  # type: ignore[attr-defined]
    for name, module in (("fine_tune", fake), ("presets", presets), ("early", early)):
        monkeypatch.setitem(sys.modules, f"fogtune.pipelines.{name}", module)
        monkeypatch.setattr(fogtune.pipelines, name, module, raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def assert_bad_input(result: Result, *mentioned: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for text in mentioned:
        assert text in result.stderr


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "ray", "transformers", "plotly", "numpy", "pyarrow", "pydantic", "yaml", "rich.progress")
    code = f"import sys, fogtune.pipelines.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_has_help() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    serving = ("serve", "predict", "versions", "promote", "rollback", "key")
    for command in ("run", "list", "show", "resume", "report", "compare", "config", "doctor", "top", *serving):
        assert command in result.stdout
        assert invoke(command, "--help").exit_code == 0
    assert invoke().stdout == result.stdout


@pytest.mark.usefixtures("fine_tune")
class TestBadInput:
    @pytest.mark.parametrize(
        "arguments", [("run", "--bogus"), ("nonsense",), ("show",), ("compare",), ("config",), ("show", "a", "b")]
    )
    def test_usage(self, arguments: tuple[str, ...]) -> None:
        assert_bad_input(invoke(*arguments), "--help")

    def test_neither_file_nor_preset(self) -> None:
        assert_bad_input(invoke("run", "nowhere.yaml"), "nowhere.yaml: neither a file nor a preset", "default")

    def test_a_field(self) -> None:
        assert_bad_input(invoke("run", "--set", "rounds=0"), "rounds", "0")
        assert_bad_input(invoke("run", "--set", "ruonds=3"), "ruonds")
        assert_bad_input(invoke("config", "check", "small.yaml", "--set", "local.epochs=none"), "local.epochs")

    def test_what_does_not_fit_together(self) -> None:
        assert_bad_input(invoke("run", "--set", "tasks.topic.label=weather"), "weather")

    def test_local_and_an_address(self) -> None:
        assert_bad_input(invoke("run", "--local", "--address", "auto"), "--address", "--local")

    @pytest.mark.parametrize("command", ["show", "report", "resume", "compare"])
    def test_no_such_run(self, command: str) -> None:
        assert_bad_input(invoke(command, "nope", "--runs-dir", "runs"), "nope: no such run")

    def test_a_damaged_run(self, make_run: MakeRun) -> None:
        run = make_run()
        (run.path / "run.json").write_text("{")
        for command in ("show", "report", "compare"):
            assert_bad_input(invoke(command, run.id), "run.json: damaged")


def test_a_run_prints_a_line_a_round_and_its_result(fine_tune: FakeFineTune) -> None:
    result = invoke("run")
    assert result.exit_code == 0
    assert "loading data ..." in result.stdout
    assert "round 2/3: topic accuracy 0.500" in result.stdout
    assert "completed after round 2: topic accuracy 0.500, vqa accuracy 0.250" in result.stdout
    assert fine_tune.configs[0].execution.runner == "ray"


def test_options_reach_the_configuration(fine_tune: FakeFineTune) -> None:
    invoke("run", "small.yaml", "--set", "rounds=5", "--set", "seed=3", "--local")
    invoke("run", "--address", "host:6379")
    first, second = fine_tune.configs
    assert (first.rounds, first.seed, first.execution.runner) == (5, 3, "local")
    assert (second.execution.runner, second.execution.address) == ("ray", "host:6379")


def test_json_of_a_run_is_a_line_a_round_and_one_for_the_run(fine_tune: FakeFineTune) -> None:
    result = invoke("run", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.get("round") for line in lines] == [1, 2, None]
    assert lines[-1]["status"] == "completed"
    assert lines[-1]["summary"]["rounds"] == 2
    assert RunDirectory.open(lines[-1]["path"]).id == lines[-1]["id"]
    assert "a library talks" in result.stderr


def test_a_failed_run_exits_1_with_one_line(fine_tune: FakeFineTune) -> None:
    fine_tune.failure = RunFailed(2, "1 of 4 updates\narrived")  # type: ignore[assignment]
    result = invoke("run")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: round 2: 1 of 4 updates arrived"
    fine_tune.failure, fine_tune.status = None, "failed"
    result = invoke("run", "--json")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: round 2: too few"
    assert json.loads(result.stdout.splitlines()[-1])["status"] == "failed"


def test_an_interrupted_run_exits_130_and_says_how_to_go_on(fine_tune: FakeFineTune) -> None:
    fine_tune.status = "stopped"
    result = invoke("run")
    assert result.exit_code == 130
    assert "go on with: fogtune resume" in result.stdout
    fine_tune.failure = KeyboardInterrupt()  # type: ignore[assignment]
    assert invoke("run").exit_code == 130


def test_resume_finds_the_run(fine_tune: FakeFineTune, make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(status="stopped")
    assert invoke("resume", run.id, "--address", "auto").exit_code == 0
    assert invoke("resume", run.id, "--from", "2").exit_code == 0
    (path, *first), (_, *second) = fine_tune.resumed
    assert Path(path).resolve() == run.path.resolve()
    assert (first, second) == (["auto", None], [None, 2])


@pytest.mark.usefixtures("fine_tune")
def test_runs_are_listed_shown_compared_and_reported(make_run: MakeRun) -> None:
    assert "no runs in 'runs'" in invoke("list").stdout
    assert json.loads(invoke("list", "--json").stdout) == []
    run, other = make_run(), make_run("other")
    assert run.id in invoke("list").stdout
    assert {entry["id"] for entry in json.loads(invoke("list", "--json").stdout)} == {run.id, other.id}
    assert "topic" in invoke("show", run.id).stdout
    assert json.loads(invoke("show", str(run.path), "--json").stdout)["id"] == run.id
    assert other.id in invoke("compare", run.id, other.id).stdout
    both = json.loads(invoke("compare", run.id, other.id, "--json", "--html", "both.html").stdout)
    assert [entry["id"] for entry in both["runs"]] == [run.id, other.id]
    assert Path("both.html").exists()
    assert Path(invoke("report", run.id).stdout.strip()).name == "report.html"
    assert invoke("list", "--runs-dir", "elsewhere").stdout.startswith("no runs in 'elsewhere'")


@pytest.mark.usefixtures("fine_tune")
def test_configurations_are_shown_checked_and_described() -> None:
    assert invoke("config", "presets").stdout == "default  A small one.\n"
    shown = invoke("config", "show", "default").stdout
    Path("shown.yaml").write_text(shown)
    assert load_config("shown.yaml") == load_config("small.yaml")
    assert invoke("config", "check", "shown.yaml").stdout == "shown.yaml: ok, 2 devices, 1 tasks, 2 rounds\n"
    assert "properties" in json.loads(invoke("config", "schema").stdout)
    assert invoke("config", "reference").stdout.startswith("#")


def test_doctor_says_what_to_do_and_exits_1_on_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from fogtune.pipelines import doctor
    from fogtune.pipelines.checking import Check

    fine = Check("python", "ok", "3.11")
    monkeypatch.setattr(doctor, "checks", lambda _: iter([fine]))
    assert invoke("doctor").exit_code == 0
    monkeypatch.setattr(doctor, "checks", lambda _: iter([fine, Check("ray", "failure", "does not start", "look")]))
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "does not start" in result.stdout
    assert "-> look" in result.stdout


def test_doctor_tells_what_the_cache_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fogtune.pipelines import doctor

    monkeypatch.setenv("FOGTUNE_CACHE", str(tmp_path / "cache"))
    assert doctor.cache().found == f"0 B in {tmp_path / 'cache'}"
    (tmp_path / "cache" / "prefixes").mkdir(parents=True)
    (tmp_path / "cache" / "prefixes" / "one.shard").write_bytes(bytes(2000))
    assert doctor.cache().found == f"2.00 kB in {tmp_path / 'cache'}"
