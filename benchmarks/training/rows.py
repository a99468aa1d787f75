"""The data of the works: digits, news in pieces of one length, and noise where nothing is learned from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fogtune.platform.data.embedded import load_bbc_news

Rows = dict[str, dict[str, list[Any]]]
"""Split -> column -> values, a row each."""

_WORDS = 40
"""Of a piece of news: more than 32 tokens whatever the words."""
_TEST_DOCUMENTS = 700


def digits(count: int | None = None) -> Rows:
    """scikit-learn's 1,797 digits, 8 x 8 greys as one vector: 359 to test, the others to train.

    With a `count`, so many to train on: the others again and again, each time with other noise.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    order = generator.permutation(len(labels))
    test, train = order[:359], order[359:]
    x, y = (images / 16).astype(np.float32), labels
    inputs, targets = x[train], y[train]
    if count is not None:
        inputs, targets = np.resize(inputs, (count, x.shape[1])), np.resize(targets, count)
        inputs = inputs + generator.normal(0, 0.05, inputs.shape).astype(np.float32)
    return {"train": _columns(inputs, targets), "test": _columns(x[test], y[test])}


def news() -> Rows:
    """The first two pieces of 40 words of each BBC article that has them; those of 700 articles to test."""
    table = load_bbc_news()
    found: list[tuple[list[str], str]] = []
    for text, topic in zip(table.modalities["text"], table.labels["topic"], strict=True):
        words = str(text).split()
        if len(words) >= 2 * _WORDS:
            found.append(([" ".join(words[i : i + _WORDS]) for i in (0, _WORDS)], str(topic)))
    order = np.random.default_rng(0).permutation(len(found))
    result: Rows = {}
    for split, some in (("test", order[:_TEST_DOCUMENTS]), ("train", order[_TEST_DOCUMENTS:])):
        pieces = [(piece, found[i][1]) for i in some for piece in found[i][0]]
        result[split] = {"input": [piece for piece, _ in pieces], "label": [topic for _, topic in pieces]}
    return result


def noise(count: int, channels: int) -> Rows:
    """Vectors and labels that mean nothing."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, channels)).astype(np.float32)
    y = np.arange(count) % 10
    return {"train": _columns(x, y), "test": _columns(x[:10], y[:10])}


def _columns(x: np.ndarray, y: np.ndarray) -> dict[str, list[Any]]:
    """A vector is a series of one step."""
    return {"input": [[row] for row in x.tolist()], "label": [str(label) for label in y.tolist()]}
