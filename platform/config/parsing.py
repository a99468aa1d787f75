"""YAML text to plain values. Knows nothing of what the values mean."""

from __future__ import annotations

from typing import Any

import yaml

from ..errors import InputError


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader`, but a key that stands twice in a mapping is an error instead of the last one winning."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not while constructing: merge keys (`<<`) rewrite mappings in place, which may repeat keys rightly.
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add((key.tag, key.value))
        return node


def parse_yaml(text: str, where: str) -> Any:
    """The value of one YAML document.

    Raises InputError, with `where` and the place in the text, if it is not YAML or a key is given twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{where}{place}", _one_line(error.problem or error.context or "not YAML")) from error
    except yaml.YAMLError as error:
        raise InputError(where, f"not YAML: {_one_line(error)}") from error


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
