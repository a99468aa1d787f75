"""Which labels a row of scores stands for: the same in every protocol."""

from __future__ import annotations

from .service import Answer


def chosen(answer: Answer) -> list[list[str]]:
    """Labels by row: of a classification the likeliest one, of several that are equal the first; of a multi-label task
    those likelier than not, perhaps none. As training counts hits (platform/model/heads.py)."""
    names = answer.task.labels
    if answer.task.head == "multilabel":
        return [[names[column] for column in row.nonzero()[0]] for row in answer.scores > 0.5]
    return [[names[column]] for column in answer.scores.argmax(1)]
