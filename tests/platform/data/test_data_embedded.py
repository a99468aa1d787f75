"""The three embedded tables: sizes, values, and the safe copy of the pickled one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fogtune.platform.config import EmbeddedSource
from fogtune.platform.data import seglearn
from fogtune.platform.data.embedded import load_bbc_news, load_easy_vqa
from fogtune.platform.data.seglearn import load_seglearn
from fogtune.platform.data.sources import load_table
from fogtune.platform.errors import AssetMissing


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOGTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_easy_vqa_has_its_questions_images_and_splits() -> None:
    table = load_table(EmbeddedSource(asset="easy-vqa"))
    assert len(table) == 38_575 + 9_673
    assert table.splits["train"].tolist() == list(range(38_575))
    assert table.splits["test"].tolist() == list(range(38_575, 48_248))
    assert len(set(table.labels["answer"])) == 13
    assert table.groups is None
    assert all(len(column) == len(table) for column in table.modalities.values())


def test_easy_vqa_decodes_the_image_that_the_question_is_about() -> None:
    table = load_easy_vqa()
    first = table.splits["test"][0]  # the file's first: ["what is the red shape?", "triangle", 0]
    assert table.modalities["text"][first] == "what is the red shape?"
    assert table.labels["answer"][first] == "triangle"
    pixels = table.modalities["image"][first]
    assert isinstance(pixels, np.ndarray)
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    red, green, blue = (pixels[..., channel].astype(int) for channel in range(3))
    assert ((red > 150) & (green < 100) & (blue < 100)).sum() > 50


def test_seglearn_has_its_windows(cache: Path) -> None:
    table = load_seglearn()
    assert len(table) == 3_605
    assert table.groups is not None
    assert dict(Counter(table.groups)) == {
        "1": 433, "2": 418, "3": 234, "4": 226, "5": 377, "6": 367, "7": 405, "8": 372, "9": 373, "10": 400,
    }  # fmt: skip
    assert set(table.labels["exercise"]) == {"ABD", "ER", "FEL", "IR", "PEN", "ROW", "TRAP"}
    assert set(table.labels["side"]) == {"left", "right"}
    windows = np.stack([np.asarray(window) for window in table.modalities["imu"]])
    assert windows.shape == (3_605, 128, 6)
    assert windows.dtype == np.float32
    assert np.abs(windows.mean((0, 1))).max() < 0.1
    assert 0.9 < windows.std((0, 1)).min() < windows.std((0, 1)).max() < 1.1


def test_seglearn_starts_with_the_first_recording(cache: Path) -> None:
    """Its first sample is [-1.083608, -0.018609, ...]; it is subject 7, PEN (0), right (1), and 1,333 samples long."""
    table = load_seglearn()
    windows = [np.asarray(window) for window in table.modalities["imu"][:20]]
    assert windows[0][0, 0] == pytest.approx((-1.083608 + 0.0110) / 0.9338, abs=1e-5)
    assert windows[0][0, 1] == pytest.approx((-0.018609 - 0.3846) / 0.5043, abs=1e-5)
    assert table.groups is not None
    assert (table.groups[0], table.labels["exercise"][0], table.labels["side"][0]) == ("7", "PEN", "right")
    count = (1_333 - 128) // 64 + 1  # 19
    assert all(np.array_equal(windows[i][64:], windows[i + 1][:64]) for i in range(count - 1))
    assert not np.array_equal(windows[count - 1][64:], windows[count][:64])


def test_seglearn_is_unpickled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_seglearn()
    assert [path.suffix for path in cache.iterdir()] == [".npz"]
    monkeypatch.setattr(seglearn, "_unpickle", None)
    again = load_seglearn()
    assert again.labels == first.labels
    assert again.groups == first.groups
    assert np.array_equal(np.stack(list(again.modalities["imu"])), np.stack(list(first.modalities["imu"])))


def test_a_damaged_copy_is_replaced(cache: Path) -> None:
    load_seglearn()
    (copy,) = cache.iterdir()
    whole = copy.read_bytes()
    copy.write_bytes(whole[: len(whole) // 2])
    assert len(load_seglearn()) == 3_605
    assert copy.read_bytes() == whole


def test_seglearn_works_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way of a directory, also for root")
    monkeypatch.setenv("FOGTUNE_CACHE", str(tmp_path / "file" / "cache"))
    assert len(load_seglearn()) == 3_605


def test_an_unknown_pickle_is_not_opened(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seglearn, "_SHA256", "0" * 64)
    monkeypatch.setattr(np, "load", None)
    monkeypatch.setattr(seglearn, "user_cache", lambda: None)
    with pytest.raises(AssetMissing, match=r"watch_dataset.npy has SHA-256 eb122f23cdf0"):
        load_seglearn()


def test_bbc_news_has_its_documents() -> None:
    table = load_bbc_news()
    assert Counter(table.labels["topic"]) == {
        "business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401,
    }  # fmt: skip
    assert table.labels["topic"] == sorted(map(str, table.labels["topic"]))
    assert table.splits["train"].tolist() == list(range(2_225))


def test_bbc_news_is_decoded_rightly() -> None:
    """A wrong guess gives 'Â£' or drops the sign; beyond ASCII the files hold pound signs only."""
    texts = [str(text) for text in load_bbc_news().modalities["text"]]
    assert {character for text in texts for character in text if ord(character) > 127} == {"£"}
    assert sum("£15.8m signing from Parma" in text for text in texts) == 1  # sports/199.txt, not UTF-8
    assert texts[510 + 386 + 417].startswith("Claxton hunting first major medal\n\nBritish hurdler")
