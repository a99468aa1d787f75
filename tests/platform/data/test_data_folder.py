"""Folders of the user's own: what is read, and what is refused in one line that names the row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fogtune.platform.config import FolderSource
from fogtune.platform.data.sources import load_table
from fogtune.platform.errors import InputError

BLUE = (0, 0, 255)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, two series of two channels, and files that something is wrong with; no metadata yet."""
    root = tmp_path / "folder"
    (root / "files").mkdir(parents=True)
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (5, 2), BLUE).save(root / "files" / name)
    np.save(root / "files" / "a.npy", np.array([[1, 2], [3, 4], [5, 6]]))
    (root / "files" / "b.csv").write_text("0.5,1.5\n2.5,3.5\n")
    np.save(root / "files" / "flat.npy", np.arange(4))
    np.save(root / "files" / "deep.npy", np.zeros((1, 2, 2)))
    np.save(root / "files" / "three.npy", np.zeros((4, 3)))
    np.save(root / "files" / "huge.npy", np.array([[1.0, 1e300]]))
    np.save(root / "files" / "object.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    (root / "files" / "empty.csv").write_text("")
    (root / "files" / "words.csv").write_text("ax,ay\n1,2\n")
    (root / "files" / "text.png").write_text("no image")
    (tmp_path / "outside.png").write_bytes((root / "files" / "a.png").read_bytes())
    (root / "files" / "link.png").symlink_to(tmp_path / "outside.png")
    return root


def source(folder: Path, **changes: Any) -> FolderSource:
    fields: dict[str, Any] = {"columns": {"m": "value"}, "labels": {"y": "label"}, **changes}
    return FolderSource(kind="folder", path=str(folder), **fields)


def write(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_values(folder: Path, *values: Any) -> None:
    write(folder, *({"value": value, "label": "x"} for value in values))


def test_jsonl_becomes_a_table(folder: Path) -> None:
    write(
        folder,
        {"text": "one", "photo": "files/a.png", "sensor": "files/a.npy", "topic": "x", "tags": ["p", "q"], "site": 1},
        {"text": "two.png", "photo": "files/b.jpg", "sensor": "files/b.csv", "topic": 7, "tags": [], "site": "s"},
    )
    columns = {"text": "text", "image": "photo", "imu": "sensor"}
    table = load_table(source(folder, columns=columns, labels={"topic": "topic", "tags": "tags"}, group="site"))
    assert table.modalities["text"] == ["one", "two.png"]
    for row in (0, 1):
        pixels = table.modalities["image"][row]
        assert isinstance(pixels, np.ndarray)
        assert pixels.shape == (2, 5, 3)
        assert pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - BLUE).max() < 5
    series = [np.asarray(value) for value in table.modalities["imu"]]
    assert [one.dtype for one in series] == [np.float32, np.float32]
    assert [one.tolist() for one in series] == [[[1, 2], [3, 4], [5, 6]], [[0.5, 1.5], [2.5, 3.5]]]
    assert table.labels == {"topic": ["x", "7"], "tags": [("p", "q"), ()]}
    assert table.groups == ["1", "s"]
    assert table.splits["train"].tolist() == [0, 1]


def test_vectors_stay_vectors(folder: Path) -> None:
    write_values(folder, "files/flat.npy", "files/flat.npy")
    vectors = [np.asarray(value) for value in load_table(source(folder)).modalities["m"]]
    assert [one.dtype for one in vectors] == [np.float32, np.float32]
    assert [one.tolist() for one in vectors] == [[0, 1, 2, 3]] * 2


def test_csv_becomes_a_table(folder: Path) -> None:
    text = '\ufeffvalue,topic,tags,score\n"one, and\nmore\u2028yes",x,p|q,0.5\n\ntwo,y,,2\n'
    (folder / "metadata.csv").write_text(text, encoding="utf-8")
    table = load_table(source(folder, labels={"topic": "topic", "tags": "tags", "score": "score"}))
    assert table.modalities["m"] == ["one, and\nmore\u2028yes", "two"]
    assert table.labels == {"topic": ["x", "y"], "tags": [("p", "q"), ()], "score": ["0.5", "2"]}
    assert table.groups is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["files/a.png", "../outside.png"], r"row 2 is '../outside.png', outside of the folder"),
        (["/etc/hostname.png"], r"row 1 is '/etc/hostname.png', outside of the folder"),
        (["files/link.png"], r"row 1 is 'files/link.png', outside of the folder"),
        (["files/\0.png"], r"row 1 is .*null"),
        (["files/a.png", "files/none.png"], r"row 2 is 'files/none.png', which does not exist"),
        (["files/a.png", "files/a.npy"], r"row 2 is 'files/a.npy'; allowed: .png, .jpg, .jpeg files"),
        (["files/a.png", None], r"row 2 is None; allowed: text or a path"),
        (["files/a.png", "files/text.png"], r"row 2, 'files/text.png': cannot identify image"),
        (["files/deep.npy"], r"row 1, 'files/deep.npy': has shape \(1, 2, 2\); allowed: \(T, C\) or \(N,\)"),
        (["files/a.npy", "files/three.npy"], r"row 2, 'files/three.npy': has 3 channels; allowed: 2"),
        (["files/huge.npy"], r"row 1, 'files/huge.npy': holds 1e\+300 at \[0, 1\]; allowed: finite"),
        (["files/object.npy"], r"row 1, 'files/object.npy': Object arrays cannot be loaded"),
        (["files/empty.csv"], r"row 1, 'files/empty.csv': has shape \(0,\)"),
        (["files/words.csv"], r"row 1, 'files/words.csv': could not convert string to float: 'ax'"),
    ],
)
def test_bad_files_are_refused_with_their_row(folder: Path, values: list[Any], message: str) -> None:
    write_values(folder, *values)
    with pytest.raises(InputError, match=r"^sources.f.columns.m: " + message) as caught:
        load_table(source(folder), "sources.f")
    assert "\n" not in str(caught.value)


def test_a_damaged_image_is_refused_at_the_access(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "files" / "cut.png")
    whole = (folder / "files" / "cut.png").read_bytes()
    (folder / "files" / "cut.png").write_bytes(whole[: len(whole) // 2])
    write_values(folder, "files/a.png", "files/cut.png")
    table = load_table(source(folder))
    with pytest.raises(InputError, match=r"row 2, 'files/cut.png': "):
        table.modalities["m"][1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"has no rows"),
        ('{"value": "a", "label": "x"}\n{"value": \n', r"row 2 is not JSON"),
        ("[1]\n", r"row 1 is \[1\]; allowed: a JSON object"),
        ('{"text": "a", "label": "x"}\n', r"columns.m: the metadata has no column 'value'; allowed: text, label$"),
        ('{"value": "a", "topic": "x"}\n', r"labels.y: the metadata has no column 'label'; allowed: value, topic$"),
        ('{"value": "a", "label": "x"}\n{"value": "b"}\n', r"labels.y: row 2 is missing"),
        ('{"value": "a", "label": NaN}\n', r"labels.y: row 1 is nan; allowed: finite"),
        ('{"value": "a", "label": {"x": 1}}\n', r"labels.y: row 1 is \{'x': 1\}; allowed: text, a number, or a list"),
        ('{"value": "a", "label": [0.5]}\n', r"labels.y: row 1 is \[0.5\]; allowed in a list of labels"),
    ],
)
def test_bad_jsonl_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "metadata.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        load_table(source(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"value,label\na,x\nb\n", r"row 2 has 1 values; allowed: 2, as in the header"),
        (b"value,value\na,x\n", r"names a column twice"),
        (b'value,label\n"a,x\n', r"is not CSV"),
        (b"value,label\n\xff,x\n", r"cannot be read as UTF-8"),
        (b"value,label\n", r"has no rows"),
    ],
)
def test_bad_csv_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "metadata.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_table(source(folder))


def test_a_folder_needs_one_metadata_file(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^sources.f.path: .* has nothing; allowed: one of metadata.jsonl"):
        load_table(source(folder), "sources.f")
    (folder / "metadata.csv").write_text("value,label\na,x\n")
    write_values(folder, "a")
    with pytest.raises(InputError, match=r"has metadata.jsonl, metadata.csv; allowed: one"):
        load_table(source(folder), "sources.f")
    with pytest.raises(InputError, match=r"is no folder"):
        load_table(source(folder / "none"), "sources.f")


def test_groups_are_text_or_whole_numbers(folder: Path) -> None:
    write(folder, {"value": "a", "label": "x", "site": 0.5})
    with pytest.raises(InputError, match=r"^source.group: row 1 is 0.5; allowed: text or a whole number"):
        load_table(source(folder, group="site"))
