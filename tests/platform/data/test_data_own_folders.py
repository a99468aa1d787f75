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
    for name in ("watch-1", "watch-3", "held-out"):
        (tmp_path / name).rename(tmp_path / f"elsewhere-{name}")
    here = Dataset.load(config, tree, "site-a", whole.labels)
    assert list(here.splits["walks"].devices) == ["watch-0", "watch-2"]
    assert len(here.splits["walks"].held_out) == 0
    for device, shard in here.splits["walks"].devices.items():
        theirs = whole.splits["walks"].devices[device]
        for ours, same in ((shard.train, theirs.train), (shard.test, theirs.test)):
            columns = [dataset.tables["walks"].modalities["imu"] for dataset in (here, whole)]
            assert len(ours) == len(same)
            assert all(np.array_equal(columns[0][i], columns[1][j]) for i, j in zip(ours, same, strict=True))
    assert Dataset.load(config, tree, "fog-0", whole.labels).tables == {}
    (tmp_path / "elsewhere-held-out").rename(tmp_path / "held-out")
    assert Dataset.load(config, tree, "cloud").labels == {"what": ("sit", "walk")}


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([{"log": "0.npy", "what": "sit"}], "sources.walks.partition: watch-1 has 1 sample in its folder"),
        (
            [{"log": "0.npy", "what": "sit"}, {"log": "1.npy", "what": "swim"}],
            r"tasks.what.label: row \d of column 'what' is 'swim'; allowed: sit, walk \(of watch-1\)",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(
    own_folders: Callable[..., Config], tmp_path: Path, rows: list[dict[str, str]], line: str
) -> None:
    config = own_folders(tmp_path)
    write(tmp_path / "watch-1", *rows)
    with pytest.raises(InputError, match=line):
        Dataset.load(config, build_tree(config))
