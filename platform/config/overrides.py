"""`--set a.b=c`: single values of a configuration replaced before it is checked.

The path names fields, keys and list indices, separated by dots; the value is YAML. What stands nowhere yet is made:
`federation.cadence.fog=2` works without a `federation` section, `topology.tiers.0.count=2` on the default tiers.
Whether a field exists at all is not known here: validation refuses what it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from ..errors import InputError
from .base import Section
from .describe import dotted, shown
from .parsing import parse_yaml
from .shape import field_at, kind_of, section_of, sections, shape_at, value_at


def apply_overrides(values: dict[Any, Any], overrides: Sequence[str]) -> None:
    """Apply `path=value` texts to plain values, in order and in place.

    An override of a `kind` drops the fields that the new kind does not have, so
    `sources.x.partition.kind=iid` works whatever the partition was.

    Raises InputError for a text that is no `path=value`, for a value that is not YAML, and for a path that leads
    through a value without fields or to no entry of a list.
    """
    for text in overrides:
        path, separator, value = text.partition("=")
        path = path.strip()
        if not separator or not all(path.split(".")):
            raise InputError("--set", f"{shown(text)} given; allowed: path=value, such as local.epochs=2")
        _set(values, path, parse_yaml(value, path))


def _set(values: dict[Any, Any], text: str, new: Any) -> None:
    done: list[str | int] = []
    rest = text.split(".")
    here: Any = values
    while True:
        key, rest = _next_key(here, rest, text, done)
        if not rest:
            break
        done.append(key)
        if value_at(done, values) is None:
            here[key] = _made(done, values)
        here = here[key]
    old = value_at((*done, key), values)
    here[key] = new
    if key == "kind" and old is not None:
        _drop_foreign(values, done)


def _next_key(here: Any, rest: list[str], text: str, done: list[str | int]) -> tuple[str | int, list[str]]:
    """The key of the next step, and the parts of the path after it."""
    if isinstance(here, dict):
        # Names may have dots: the longest key that is there is meant.
        for length in range(len(rest), 1, -1):
            if (joined := ".".join(rest[:length])) in here:
                return joined, rest[length:]
        return rest[0], rest[1:]
    if isinstance(here, list):
        if not (rest[0].isdecimal() and int(rest[0]) < len(here)):
            allowed = f"0 to {len(here) - 1}" if here else f"none, {dotted(done)} is empty"
            raise InputError(text, f"no entry {rest[0]!r} in {dotted(done)}; allowed: {allowed}")
        return int(rest[0]), rest[1:]
    raise InputError(text, f"{dotted(done)} is {shown(here)}, which has no field {rest[0]!r}")


def _made(path: list[str | int], values: dict[Any, Any]) -> Any:
    """What a section, mapping or list that is not given starts from: the kind, or the entries, of its default."""
    field = field_at(path, values)
    default = field.get_default(call_default_factory=True, validated_data={}) if field is not None else None
    if isinstance(default, tuple):
        return to_jsonable_python(default)
    kind = kind_of(type(default)) if isinstance(default, Section) else None
    return {} if kind is None else {"kind": kind}


def _drop_foreign(values: dict[Any, Any], path: list[str | int]) -> None:
    shape, section_values = shape_at(path, values), value_at(path, values)
    section = section_of(shape, section_values)
    if shape is None or section is None or len(sections(shape)) < 2 or not isinstance(section_values, dict):
        return
    for key in [key for key in section_values if key not in section.model_fields]:
        del section_values[key]
