"""Reading, overriding and writing configurations; every refusal is one line that names field and value."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from fogtune.platform.config import (
    Config,
    CountedTopology,
    EmbeddedSource,
    FedProx,
    IidPartition,
    ListedTopology,
    PlacedTopology,
    SeriesEncoder,
)
from fogtune.platform.config.load import dump_config, load_config
from fogtune.platform.errors import InputError

SMALL: dict[str, Any] = {
    "devices": [
        {"name": "watch", "count": 2, "modalities": ["imu"], "tasks": ["side"]},
        {"name": "reader", "count": 1, "modalities": ["text"], "tasks": ["topic"]},
    ],
    "sources": {
        "gym": {"kind": "embedded", "asset": "seglearn"},
        "news.uk": {"kind": "embedded", "asset": "bbc-news", "partition": {"kind": "dirichlet", "label": "topic"}},
    },
    "tasks": {
        "side": {"source": "gym", "inputs": ["imu"], "label": "side"},
        "topic": {"source": "news.uk", "inputs": ["text"], "label": "topic"},
    },
    "model": {"encoders": {"imu": {"kind": "series", "channels": 6}}},
}


def refusal(values: Any, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_config(values, overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


def edited(path: str, value: Any) -> dict[str, Any]:
    """SMALL with one value replaced, without going through the overrides."""
    values = copy.deepcopy(SMALL)
    *outer, last = path.split("/")
    here: Any = values
    for part in outer:
        here = here.setdefault(part, {})
    here[last] = value
    return values


def test_a_file_and_the_mapping_in_it_are_the_same_configuration(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    assert load_config(path) == load_config(str(path)) == load_config(SMALL) == Config.model_validate(SMALL)


def test_dump_loads_back_equal(tmp_path: Path) -> None:
    values = SMALL | {
        "topology": {"kind": "listed", "tree": {"fog-a": ["watch-0", "watch-1"], "1e3": ("reader-0",)}},
        "local": {"learning_rate": 1e-5, "clip_norm": None},
        "federation": {"rule": {"kind": "trimmed-mean"}, "modules": [{"match": "*", "cadence": {"fog": 2}}]},
        "model": SMALL["model"] | {"adapter": None, "experts": {"count": 4}},
    }
    config = load_config(values)
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config
    assert "learning_rate: 1.0e-05" in path.read_text()
    assert dump_config(load_config(path)) == path.read_text()


def test_overrides_leave_the_given_mapping_alone() -> None:
    before = copy.deepcopy(SMALL)
    load_config(SMALL, ["devices.0.count=9", "model.encoders.imu.width=8"])
    assert before == SMALL


def test_overrides_reach_every_kind_of_place() -> None:
    config = load_config(
        SMALL,
        [
            "rounds=3",
            "devices.0.count=5",
            "devices.1.tasks=[topic]",
            "federation.cadence.fog=2",
            "federation.modules=[{match: 'head/*', scope: device}]",
            "federation.modules.0.scope=fog",
            "model.experts.count=4",
            "model.adapter=null",
            "model.encoders.imu.kernel=5",
            "local.learning_rate=1e-2",
            "sources.news.uk.test_fraction=0.5",
            "output.directory=a=b",
        ],
    )
    assert config.rounds == 3
    assert [group.count for group in config.devices] == [5, 1]
    assert config.federation.cadence == {"fog": 2}
    assert config.federation.modules[0].scope == "fog"
    assert config.model.experts is not None
    assert config.model.experts.count == 4
    assert config.model.adapter is None
    assert config.model.encoders["imu"] == SeriesEncoder(channels=6, kernel=5)
    assert config.local.learning_rate == 0.01
    assert config.sources["news.uk"].test_fraction == 0.5
    assert config.output.directory == "a=b"


def test_a_later_override_wins() -> None:
    assert load_config(SMALL, ["rounds=3", "rounds=4"]).rounds == 4


def test_overrides_of_defaults_start_from_their_kind_and_entries() -> None:
    topology = load_config(SMALL, ["topology.tiers.0.count=2"]).topology
    assert isinstance(topology, CountedTopology)
    assert [(tier.name, tier.count) for tier in topology.tiers] == [("fog", 2)]
    assert load_config(SMALL, ["topology.tiers=[]"]).topology == CountedTopology(tiers=())
    placed = load_config(SMALL | {"topology": {"kind": "placed"}}, ["topology.tiers.0.count=2"]).topology
    assert isinstance(placed, PlacedTopology)
    assert placed.tiers[0].count == 2


def test_override_of_a_kind_drops_what_the_new_kind_has_not() -> None:
    config = load_config(
        SMALL,
        [
            "sources.news.uk.partition.kind=iid",
            "federation.rule={kind: fedavgm, momentum: 0.5}",
            "federation.rule.kind=fedprox",
            "federation.rule.mu=0.1",
            "topology.kind=listed",
            "topology.tree={fog-0: [watch-0, watch-1, reader-0]}",
        ],
    )
    source = config.sources["news.uk"]
    assert isinstance(source, EmbeddedSource)
    assert source.partition == IidPartition(kind="iid")
    assert config.federation.rule == FedProx(kind="fedprox", mu=0.1)
    assert isinstance(config.topology, ListedTopology)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("rounds", "--set: 'rounds' given; allowed: path=value, such as local.epochs=2"),
        ("a..b=1", "--set: 'a..b=1' given; allowed: path=value, such as local.epochs=2"),
        ("rounds=[1", "rounds, line 1, column 3: expected ',' or ']', but got '<stream end>'"),
        ("devices.2.count=1", "devices.2.count: no entry '2' in devices; allowed: 0 to 1"),
        ("devices.watch.count=1", "devices.watch.count: no entry 'watch' in devices; allowed: 0 to 1"),
        (
            "federation.modules.0.scope=fog",
            "federation.modules.0.scope: no entry '0' in federation.modules; allowed: none, "
            "federation.modules is empty",
        ),
        (
            "devices.0.count.x=1",
            "devices.0.count.x: devices.0.count is 2, which has no field 'x'",
        ),
        (
            "local.learning_rte=1",
            "local.learning_rte: unknown field, given 1; did you mean learning_rate? allowed: epochs, batch_size, "
            "group_by_length, optimizer, learning_rate, schedule, warmup_rounds, weight_decay, logit_adjustment, "
            "clip_norm",
        ),
        (
            "outputs.directory=x",
            "outputs: unknown field, given {'directory': 'x'}; did you mean output? allowed: name, seed, rounds, "
            "topology, devices, sources, tasks, model, local, federation, network, evaluation, execution, output",
        ),
        (
            "federation.rule.mu=1",
            "federation.rule.mu: unknown field, given 1; allowed: kind",
        ),
        ("rounds=0", "rounds: 0 given; allowed: integer (at least 1)"),
        ("rounds=soon", "rounds: 'soon' given; allowed: integer (at least 1)"),
        ("rounds=", "rounds: null given; allowed: integer (at least 1)"),
        ("local.learning_rate=.inf", "local.learning_rate: inf given; allowed: number (above 0), finite"),
        ("local.optimizer=adam", "local.optimizer: 'adam' given; allowed: adamw | sgd | none"),
        (
            "execution.devices_per_actor=few",
            "execution.devices_per_actor: 'few' given; allowed: integer (at least 1) or auto",
        ),
        ("evaluation.personal=maybe", "evaluation.personal: 'maybe' given; allowed: true or false"),
        ("model.encoders.imu.channels=0", "model.encoders.imu.channels: 0 given; allowed: integer (at least 1)"),
        ("model.encoders.imu.kind=imu", "model.encoders.imu.kind: 'imu' given; allowed: image | series | features"),
        ("model.encoders.imu={}", "model.encoders.imu.kind: missing; allowed: image | series | features"),
        (
            "federation.rule.kind=[fedavg]",
            "federation.rule.kind: ['fedavg'] given; allowed: fedavg | fedprox | fedavgm | fedadam | fedyogi | "
            "scaffold | median | trimmed-mean",
        ),
        ("federation.cadence.fog=0", "federation.cadence.fog: 0 given; allowed: integer (at least 1)"),
        ("model=null", "model: null given; allowed: mapping"),
        ("tasks={}", "tasks: {} given; allowed: mapping of name to mapping (at least 1 of them)"),
        ("tasks.side.inputs=imu", "tasks.side.inputs: 'imu' given; allowed: list of name (at least 1 of them)"),
        (
            "tasks.side.inputs=[1]",
            "tasks.side.inputs.0: 1 given; allowed: name (letters, digits, '_', '.', '-'; at most 64), in quotes",
        ),
        (
            "devices.0.name=my watch",
            "devices.0.name: 'my watch' given; allowed: name (letters, digits, '_', '.', '-'; at most 64)",
        ),
        (
            "sources.gym.held_out.groups=[8]",
            "sources.gym.held_out.groups.0: 8 given; allowed: text, in quotes",
        ),
        (
            "sources.gym.held_out={split: test, fraction: 0.1}",
            "sources.gym.held_out: {'split': 'test', 'fraction': 0.1}: give exactly one of split, groups, fraction, "
            "path",
        ),
        (
            "tasks.a b=1",
            "tasks.a b: 'a b' is no name; allowed: letters, digits, '_', '.', '-', at most 64",
        ),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(override: str, line: str) -> None:
    assert refusal(SMALL, override) == line


def test_a_missing_field_is_named_with_what_it_takes() -> None:
    values = edited("devices", [{}, *SMALL["devices"][1:]])
    assert refusal({key: SMALL[key] for key in ("devices", "sources")}) == (
        "tasks: missing; allowed: mapping of name to mapping (at least 1 of them)"
    )
    assert refusal(values) == (
        "devices.0.name: missing; allowed: name (letters, digits, '_', '.', '-'; at most 64) (and 3 more problems)"
    )


def test_a_misspelt_field_is_named_before_the_one_that_is_missing_for_it() -> None:
    assert refusal(edited("sources/gym", {"kind": "embedded", "aset": "seglearn"})).startswith(
        "sources.gym.aset: unknown field, given 'seglearn'; did you mean asset? "
    )


def test_keys_named_like_kinds_do_not_confuse_the_path() -> None:
    values = edited("model/encoders/series", {"kind": "series", "channels": "x"})
    assert refusal(values) == "model.encoders.series.channels: 'x' given; allowed: integer (at least 1)"


def test_long_values_are_shortened_and_keys_stay_on_one_line() -> None:
    line = refusal(edited("a\nb", ["x" * 500]))
    assert line.startswith("'a\\nb': unknown field, given ['xxxx")
    assert len(line) < 300


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1", ", line 1, column 6: expected ',' or ']', but got '<stream end>'"),
        ("rounds: 1\nrounds: 2\n", ", line 2, column 1: key 'rounds' is given twice"),
        ("local:\n  epochs: 1\n  epochs: 1\n", ", line 3, column 3: key 'epochs' is given twice"),
        ("- 1\n- 2\n", ": [1, 2] given; allowed: a mapping with devices, sources, tasks"),
        ("", ": null given; allowed: a mapping with devices, sources, tasks"),
        ("a: 1\n---\nb: 2\n", ", line 2, column 1: but found another document"),
        (
            "a: \x00",
            ": not YAML: unacceptable character #x0000: "
            'special characters are not allowed in "<unicode string>", position 3',
        ),
    ],
)
def test_what_is_no_yaml_mapping_is_refused_in_one_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert refusal(path) == f"{path}{problem}"


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: no such file; give a YAML file"
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    assert refusal(tmp_path / "bytes") == f"{tmp_path / 'bytes'}: not a text file; give a YAML file in UTF-8"


def test_merge_keys_may_repeat_keys(tmp_path: Path) -> None:
    path = tmp_path / "merged.yaml"
    shared = (
        "devices:\n"
        "- &watch {name: a, count: 1, modalities: [text], tasks: [topic]}\n"
        "- &second {<<: *watch, name: b}\n"
        "- {<<: *second, name: c}\n"
    )
    rest = {"sources": {"news.uk": SMALL["sources"]["news.uk"]}, "tasks": {"topic": SMALL["tasks"]["topic"]}}
    path.write_text(shared + yaml.safe_dump(rest))
    assert [group.name for group in load_config(path).devices] == ["a", "b", "c"]
