"""From a source of the configuration to its table."""

from __future__ import annotations

from typing import assert_never

from ..config import EmbeddedSource, FolderSource, HuggingFaceSource, Source
from .embedded import load_embedded
from .folder import load_folder
from .huggingface import load_huggingface
from .table import Table


def load_table(source: Source, where: str = "source") -> Table:
    """Load a source. `where` is how messages name it: `sources.vqa`.

    Raises InputError where the source does not hold what its configuration says; AssetMissing where the package of an
    embedded source is not installed.
    """
    match source:
        case EmbeddedSource():
            return load_embedded(source)
        case HuggingFaceSource():
            return load_huggingface(source, where)
        case FolderSource():
            return load_folder(source, where)
        case _:
            assert_never(source)
