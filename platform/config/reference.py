"""The reference of all configuration fields, made from the models and their docstrings."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from .base import Section
from .describe import allowed_text, type_text
from .root import Config
from .shape import Sections, Shape, field_shape, kind_of, options, sections

_INTRODUCTION = """# Configuration reference

Generated from the models in `platform/config`; `fogtune config schema` prints the same as JSON Schema.

A configuration is a YAML file. Unknown fields are refused. `--set path=value` replaces single values, with list
indices as numbers: `--set devices.0.count=5`. Sections with a `kind` come in variants; `kind` tells which.
"""


def schema_json(section: type[Section] = Config) -> str:
    """JSON Schema of a section, by default of the whole configuration, for editors and validators."""
    return json.dumps(section.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def reference_markdown() -> str:
    """Markdown: a part a section, from the root downwards, each with a table of its fields."""
    titles = dict(_walk(Config, ""))
    return "\n".join([_INTRODUCTION, *(_part(section, titles) for section in titles)])


def _walk(section: type[Section], path: str) -> Iterator[tuple[type[Section], str]]:
    """Sections with their titles, each before those inside it."""
    kind = kind_of(section)
    yield section, (path or "The root") + (f" ({kind})" if kind else "")
    for name, field in section.model_fields.items():
        inner = f"{path}.{name}" if path else name
        yield from _walk_shape(field_shape(field), inner)


def _walk_shape(shape: Shape, path: str) -> Iterator[tuple[type[Section], str]]:
    for section in sections(shape):
        yield from _walk(section, path)
    for option in options(shape):
        for steps, item in _items(option):
            yield from _walk_shape(item, path + steps)


def _items(option: Shape) -> list[tuple[str, Shape]]:
    origin, arguments = get_origin(option.annotation), get_args(option.annotation)
    if origin is tuple:
        return [(".N", Shape(arguments[0]))]
    return [(".NAME", Shape(arguments[1]))] if origin is dict else []


def _part(section: type[Section], titles: dict[type[Section], str]) -> str:
    def link(models: Sections) -> str:
        return " or ".join(f"[{kind_of(model) or 'mapping'}](#{_anchor(titles[model])})" for model in models)

    rows = [
        _row(name, field, section, link_text=type_text(field_shape(field), link)) for name, field in _fields(section)
    ]
    head = ["| field | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    return "\n".join([f"## {titles[section]}", "", inspect.cleandoc(section.__doc__ or ""), "", *head, *rows, ""])


def _fields(section: type[Section]) -> list[tuple[str, FieldInfo]]:
    """The fields in the order of the model, `kind` first."""
    return sorted(section.model_fields.items(), key=lambda item: item[0] != "kind")


def _row(name: str, field: FieldInfo, section: type[Section], link_text: str) -> str:
    allowed, default = allowed_text(field_shape(field)), _default(field)
    if name == "kind":  # its default counts only where the whole section is absent
        allowed, default = f"`{kind_of(section)}`", "required"
    cells = [f"`{name}`", link_text, default, allowed]
    return "| " + " | ".join(_cell(text) for text in [*cells, field.description or ""]) + " |"


def _default(field: FieldInfo) -> str:
    """The default as YAML on one line; of a section only what it sets besides its own defaults."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, Section):
        kind = kind_of(type(value))
        value = ({"kind": kind} if kind else {}) | value.model_dump(mode="json", exclude_unset=True)
    text = yaml.safe_dump(to_jsonable_python(value), default_flow_style=True, width=1000, sort_keys=False)
    text = text.removesuffix("...\n").strip()  # YAML's end mark after a bare scalar
    return f"`{text}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _anchor(title: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
