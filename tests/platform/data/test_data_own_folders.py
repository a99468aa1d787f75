"""Each device's own folder: its machine reads it, the cloud's reads what is held out, and all learn the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fogtune.platform.config import Config, FolderSource, HeldOut
from fogtune.platform.data.own_folders import HELD_OUT, load_own_folders
from fogtune.platform.errors import InputError
from fogtune.platform.learning.workbench import Dataset
from fogtune.platform.topology_build import build_tree


def write(folder: Path, *rows: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_folders_lie_one_after_the_other_and_pictures_stay_files(tmp_path: Path) -> None:
    for shade, name in enumerate(["cam-0", "cam-1", "kept"]):
        write(tmp_path / name, *({"photo": f"{i}.png", "kind": name} for i in range(shade + 1)))
        for i in range(shade + 1):
            Image.new("L", (1, 1), 10 * shade + i).save(tmp_path / name / f"{i}.png")
    source = FolderSource(
        kind="folder",
        path=f"{tmp_path}/{{device}}",
        columns={"image": "photo"},
        labels={"kind": "kind"},
        held_out=HeldOut(path=str(tmp_path / "kept")),
    )
    table = load_own_folders(source, "sources.x", ["cam-0", "cam-1"], held_out=True)
    assert table.groups == ["cam-0", "cam-1", "cam-1", "", "", ""]
    assert [int(np.asarray(value).max()) for value in table.modalities["image"]] == [0, 10, 11, 20, 21, 22]
    assert table.splits[HELD_OUT].tolist() == [3, 4, 5]
    assert len(load_own_folders(source, "sources.x", ["cam-1"], held_out=False)) == 2
    with pytest.raises(InputError, match=r"sources.x.path: .*cam-2 is no folder.* \(in .*cam-2\)"):
        load_own_folders(source, "sources.x", ["cam-2"], held_out=False)


def test_a_machine_reads_the_folders_of_its_devices_and_the_clouds_what_is_held_out(
    own_folders: Callable[..., Config], tmp_path: Path
) -> None:
    config = own_folders(tmp_path)
    tree = build_tree(config)
    whole = Dataset.load(config, tree)
    for name in ("reader-1", "reader-3", "held-out"):
        (tmp_path / name).rename(tmp_path / f"elsewhere-{name}")
    here = Dataset.load(config, tree, "site-a", whole.labels)
    assert list(here.splits["news"].devices) == ["reader-0", "reader-2"]
    assert len(here.splits["news"].held_out) == 0
    for device, shard in here.splits["news"].devices.items():
        theirs = whole.splits["news"].devices[device]
        for ours, same in ((shard.train, theirs.train), (shard.test, theirs.test)):
            texts = [here.tables["news"].modalities["text"][row] for row in ours]
            assert texts == [whole.tables["news"].modalities["text"][row] for row in same]
            assert all(device.upper() in str(text) for text in texts)
    assert Dataset.load(config, tree, "fog-0", whole.labels).tables == {}
    (tmp_path / "elsewhere-held-out").rename(tmp_path / "held-out")
    assert Dataset.load(config, tree, "cloud").labels == {"topic": ("money", "sport")}


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([{"text": "a", "topic": "sport"}], "sources.news.partition: reader-1 has 1 sample in its folder"),
        (
            [{"text": "a", "topic": "sport"}, {"text": "b", "topic": "war"}],
            r"tasks.topic.label: row \d of column 'topic' is 'war'; allowed: money, sport \(of reader-1\)",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(
    own_folders: Callable[..., Config], tmp_path: Path, rows: list[dict[str, str]], line: str
) -> None:
    config = own_folders(tmp_path)
    write(tmp_path / "reader-1", *rows)
    with pytest.raises(InputError, match=line):
        Dataset.load(config, build_tree(config))
