"""The main program in one process: what a run leaves, resuming to the same bits, refusing before anything is left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

import fogtune
from fogtune.pipelines.cli import app
from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.learning.workbench import Dataset
from fogtune.platform.network.sites import find_sites
from fogtune.platform.run import RoundRecord, RunDirectory
from fogtune.platform.run.checkpoint import read_newest_checkpoint
from fogtune.platform.topology_build import build_tree

MakeConfig = Callable[..., Config]
Left = Callable[[RunDirectory], object]
PERSONAL = 'federation.modules=[{"match": "head/*", "scope": "device"}]'


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def make(bare: MakeConfig, runs: Path) -> MakeConfig:
    """The bare federation, writing below `runs`, without personal evaluation."""
    return lambda *overrides: bare(f"output.directory={runs}", "evaluation.personal=false", *overrides)


def stop_after(round_number: int) -> Callable[[RoundRecord], None]:
    """Somebody presses Ctrl-C when this round is reported."""

    def on_event(record: RoundRecord) -> None:
        if record.round == round_number:
            raise KeyboardInterrupt

    return on_event


class TestRun:
    def test_the_api_runs_a_preset_and_leaves_a_whole_directory(self, runs: Path) -> None:
        stages: list[str] = []
        rounds: list[RoundRecord] = []
        config = fogtune.preset("smoke", "execution.runner=local", f"output.directory={runs}", "rounds=1")
        done = fogtune.run(config, on_event=rounds.append, on_stage=stages.append)
        assert done.status == "completed"
        assert os.listdir(runs) == [done.directory.id]
        assert sorted(os.listdir(done.directory.path)) == [
            "checkpoints",
            "config.yaml",
            "ledger.parquet",
            "log.jsonl",
            "modules",
            "report.html",
            "rounds.jsonl",
            "run.json",
            "topology.json",
        ]
        assert done.directory.records() == rounds
        assert done.directory.info.summary.tasks == rounds[-1].tasks
        assert set(rounds[-1].tasks) == {"exercise", "topic"}
        assert os.listdir(done.directory.path / "checkpoints") == ["round-000001"]  # the ledger's parts are merged
        assert fogtune.load_config(done.directory.path / "config.yaml") == config
        assert f"run {done.directory.id}" in stages
        assert done.directory.topology()["coach-0"]["modalities"] == ["imu", "text"]

    @pytest.mark.parametrize("star", [False, True])
    def test_positions_are_those_of_the_network(self, make: MakeConfig, star: bool) -> None:
        config = make("rounds=1", "network={}", *(["topology.tiers=[]"] if star else []))
        assert config.network is not None
        run = fogtune.run(config).directory
        assert run.positions() == find_sites(config, build_tree(config), config.network).position_m
        assert ("ap-0" in run.positions()) == star
        assert "ap-0" not in run.topology()

    @pytest.mark.parametrize("changes", [(), ("topology={kind: placed, tiers: [{name: fog, count: 2}]}",)])
    def test_positions_without_a_network_are_those_of_a_placed_topology(
        self, make: MakeConfig, changes: tuple[str, ...]
    ) -> None:
        config = make("rounds=1", *changes)
        tree = build_tree(config)
        expected = {node.id: (node.x_m, node.y_m) for node in tree} if changes else {}
        assert fogtune.run(config).directory.positions() == expected

    def test_the_ledger_holds_the_bytes_of_the_rounds(self, make: MakeConfig) -> None:
        done = fogtune.run(make("rounds=2"))
        rows = pq.read_table(done.directory.path / "ledger.parquet").to_pylist()
        for record in done.directory.records():
            mine = [row for row in rows if row["round"] == record.round]
            assert sum(row["bytes"] for row in mine) == sum(record.bytes.values()) > 0
        assert sum(row["bytes"] for row in rows) == sum(done.directory.info.summary.bytes.values())

    def test_versions_are_published_as_often_as_asked_and_at_the_end(self, make: MakeConfig) -> None:
        done = fogtune.run(make("rounds=3", "output.publish_every=2", "output.keep_checkpoints=1"))
        assert sorted(os.listdir(done.directory.path / "modules")) == ["v2", "v3"]
        assert os.listdir(done.directory.path / "checkpoints") == ["round-000003"]


class TestResume:
    @pytest.mark.parametrize(
        ("model", "last", "changes"),
        [
            ("tiny", 1, ("federation.rule.kind=fedadam", "federation.cadence.fog=2", "federation.participation=0.6")),
            ("bare", 3, (PERSONAL, "federation.cadence.device=2", "federation.cadence.fog=2")),
            (
                "bare",
                2,
                ("federation.rule.kind=scaffold", "local.optimizer=sgd", "federation.participation=0.6", PERSONAL),
            ),
        ],
        ids=["fedadam", "personal", "scaffold"],
    )
    def test_the_bits_are_those_of_a_run_that_was_never_stopped(
        self,
        runs: Path,
        left: Left,
        model: str,
        last: int,
        changes: tuple[str, ...],
        request: pytest.FixtureRequest,
    ) -> None:
        config = request.getfixturevalue(model)(*changes, "evaluation.every=2", f"output.directory={runs}")
        whole = fogtune.run(config)
        stopped = fogtune.run(config, on_event=stop_after(last))
        assert stopped.status == "stopped"
        assert stopped.directory.info.summary.rounds == last
        resumed = fogtune.resume(stopped.directory.path)
        assert resumed.status == "completed"
        assert left(resumed.directory) == left(whole.directory)

    def test_a_stopped_run_is_consistent(self, make: MakeConfig) -> None:
        stopped = fogtune.run(make(), on_event=stop_after(2)).directory
        assert (stopped.info.status, stopped.info.error) == ("stopped", None)
        assert [record.round for record in stopped.records()] == [1, 2]
        rows = pq.read_table(stopped.path / "ledger.parquet").to_pylist()
        assert {row["round"] for row in rows} == {1, 2}
        found = read_newest_checkpoint(stopped.path)
        assert found is not None
        assert found[0] == 2
        assert (stopped.path / "report.html").exists()

    def test_a_torn_checkpoint_costs_a_round_and_no_bit(self, make: MakeConfig, left: Left) -> None:
        whole = left(fogtune.run(make("rounds=3")).directory)
        stopped = fogtune.run(make("rounds=3"), on_event=stop_after(2)).directory
        file = stopped.path / "checkpoints/round-000002/state.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        stages: list[str] = []
        resumed = fogtune.resume(stopped.path, on_stage=stages.append)
        assert f"run {stopped.id}, from round 2" in stages
        assert left(resumed.directory) == whole

    def test_a_run_that_was_stopped_before_its_first_round_starts_there(self, make: MakeConfig) -> None:
        def on_stage(text: str) -> None:
            if text.startswith("round 1"):
                raise KeyboardInterrupt

        stopped = fogtune.run(make("rounds=1"), on_stage=on_stage)
        assert (stopped.status, stopped.directory.records()) == ("stopped", [])
        resumed = fogtune.resume(stopped.directory.path)
        assert (resumed.status, len(resumed.directory.records())) == ("completed", 1)

    def test_a_run_that_is_done_is_not_resumed(self, make: MakeConfig) -> None:
        done = fogtune.run(make("rounds=1"))
        with pytest.raises(InputError, match="all 1 rounds are done"):
            fogtune.resume(done.directory.path)
        assert done.status == "completed"


class TestFailure:
    def test_below_the_quorum_the_run_has_failed_and_says_why(self, make: MakeConfig) -> None:
        diverging = ("local.optimizer=sgd", "local.learning_rate=1e38", "local.clip_norm=null")
        failed = fogtune.run(make(*diverging))
        assert failed.status == "failed"
        error = failed.directory.info.error or ""
        assert error.startswith("round 1: 0 of 5 updates arrived, below federation.quorum 1; watch-0")
        assert "not finite" in error
        assert failed.directory.records() == []

    def test_what_is_lost_above_it_is_told(self, make: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
        diverging = ("local.optimizer=sgd", "local.learning_rate=1e38", "local.clip_norm=null", "federation.quorum=0")
        done = fogtune.run(make(*diverging, "rounds=1"))
        assert done.status == "completed"
        assert done.directory.info.summary.updates_lost == 5
        assert "round 1 goes on without watch-0" in caplog.text

    def test_what_a_callback_raises_ends_the_run_and_comes_out(self, make: MakeConfig) -> None:
        def on_event(_: RoundRecord) -> None:
            raise ZeroDivisionError("mine")

        with pytest.raises(ZeroDivisionError):
            fogtune.run(make(), on_event=on_event)
        (run,) = [RunDirectory.open(path) for path in Path(make().output.directory).iterdir()]
        assert (run.info.status, run.info.error) == ("failed", "ZeroDivisionError: mine")
        assert fogtune.resume(run.path).status == "completed"


class TestBadInput:
    @pytest.mark.parametrize(
        ("overrides", "named"),
        [
            (["devices.0.count=20"], "sources.watch.partition: natural, but 21 devices share 7 groups"),
            (["sources.watch.held_out.groups=[99]"], "sources.watch.held_out.groups"),
            (["sources.news.samples_per_device=1"], "sources.news.samples_per_device"),
            (["federation.rule.kind=scaffold"], "local.optimizer"),
            (["model.adapter.targets=[nonsense]"], "model.adapter.targets"),  # seen when the model is loaded
            (["model.backbone.name=/nowhere"], "model.backbone.name"),
        ],
    )
    def test_it_is_refused_in_one_line_and_leaves_nothing(self, runs: Path, overrides: list[str], named: str) -> None:
        changes = [f"output.directory={runs}", *overrides]
        arguments = [part for change in changes for part in ("--set", change)]
        result = CliRunner().invoke(app, ["run", "smoke", "--local", *arguments])
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert result.stderr.startswith(f"error: {named}")
        assert not runs.exists() or os.listdir(runs) == []

    def test_what_comes_to_light_late_leaves_what_was_done(self, make: MakeConfig, tmp_path: Path) -> None:
        """A damaged picture is found when it is first looked at: here in the evaluation after round 2."""
        folder = tmp_path / "pictures"
        folder.mkdir()
        generator = np.random.default_rng(0)
        lines = []
        for i in range(40):
            Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
            lines.append(json.dumps({"file": f"{i}.png", "kind": "ab"[i % 2]}))
        (folder / "metadata.jsonl").write_text("\n".join(lines))
        source = {
            "kind": "folder",
            "path": str(folder),
            "columns": {"image": "file"},
            "labels": {"kind": "kind"},
            "partition": {"kind": "iid"},
        }
        config = make(
            "rounds=3",
            "evaluation.every=2",
            "topology.tiers=[]",
            'devices=[{"name": "camera", "count": 2, "modalities": ["image"], "tasks": ["kind"]}]',
            f"sources={json.dumps({'pictures': source})}",
            'tasks={"kind": {"source": "pictures", "inputs": ["image"], "label": "kind"}}',
            'model.encoders={"image": {"kind": "image", "size_px": 32}}',
        )
        row = int(Dataset.load(config, build_tree(config)).splits["pictures"].held_out[0])
        intact = (folder / f"{row}.png").read_bytes()
        (folder / f"{row}.png").write_bytes(intact[:60])
        with pytest.raises(InputError, match=f"{row}.png"):
            fogtune.run(config)
        (path,) = Path(config.output.directory).iterdir()
        info = RunDirectory.open(path).info
        assert (info.status, info.summary.rounds) == ("failed", 1)
        assert f"{row}.png" in (info.error or "")
        (folder / f"{row}.png").write_bytes(intact)
        assert fogtune.resume(path).status == "completed"
