"""The configuration models as data: what may stand at a path.

A *path* is a sequence of field names, keys and list indices from the root. Where a union of sections stands, the
`kind` among the given values decides which section is meant; those values may be incomplete or wrong otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from .base import Section
from .root import Config

Path = Sequence[str | int]
Sections = tuple[type[Section], ...]


@dataclass(frozen=True)
class Shape:
    """A type and the constraints on its values."""

    annotation: Any
    constraints: tuple[object, ...] = ()


def field_shape(field: FieldInfo) -> Shape:
    """The shape of a field's values."""
    return Shape(field.annotation, tuple(field.metadata))


def options(shape: Shape) -> tuple[Shape, ...]:
    """The members of a union, without `Annotated` around them; one member if it is no union."""
    annotation, constraints = shape.annotation, shape.constraints
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        for item in more:
            constraints += tuple(item.metadata) if isinstance(item, FieldInfo) else (item,)
    if get_origin(annotation) in (Union, UnionType):
        return tuple(option for member in get_args(annotation) for option in options(Shape(member, constraints)))
    return (Shape(annotation, constraints),)


def sections(shape: Shape) -> Sections:
    """The sections that may stand here."""
    types = (option.annotation for option in options(shape))
    return tuple(option for option in types if isinstance(option, type) and issubclass(option, Section))


def kind_of(section: type[Section]) -> str | None:
    """What a section's `kind` must be; None for a section that is no member of a union."""
    field = section.model_fields.get("kind")
    return None if field is None else str(get_args(field.annotation)[0])


def section_of(shape: Shape | None, value: object) -> type[Section] | None:
    """The section that `value` stands for, told by its `kind` where there are several; None if that cannot be told."""
    models = sections(shape) if shape is not None else ()
    if len(models) == 1:
        return models[0]
    kind = value.get("kind") if isinstance(value, Mapping) else None
    return next((model for model in models if kind_of(model) == kind), None)


def value_at(path: Path, values: object) -> object:
    """What the given values have at `path`; None if nothing."""
    for part in path:
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and 0 <= part < len(values):
            values = values[part]
        else:
            return None
    return values


def shape_at(path: Path, values: object) -> Shape | None:
    """The shape of what may stand at `path` beside these values; None if nothing may stand there."""
    if not path:
        return Shape(Config)
    outer = shape_at(path[:-1], values)
    if outer is None:
        return None
    field = field_at(path, values)
    if field is not None:
        return field_shape(field)
    for option in options(outer):
        if get_origin(option.annotation) is dict:
            return Shape(get_args(option.annotation)[1])
        if get_origin(option.annotation) is tuple and isinstance(path[-1], int):
            return Shape(get_args(option.annotation)[0])
    return None


def field_at(path: Path, values: object) -> FieldInfo | None:
    """The field that `path` ends in; None if it ends in a list's item, a mapping's key or nowhere."""
    parent = path[:-1]
    section = section_of(shape_at(parent, values), value_at(parent, values))
    return None if section is None else section.model_fields.get(str(path[-1]))
