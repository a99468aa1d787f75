"""Types and constraints of the configuration in words, for error messages and for the reference."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import StringConstraints

from .shape import Path, Sections, Shape, kind_of, options, sections

_PLAIN: dict[Any, str] = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
    Any: "anything",
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_SHOWN_CHARACTERS = 60


def dotted(path: Path) -> str:
    """The path as users write it: `devices.0.count`."""
    return ".".join(str(part) if str(part).isprintable() else repr(part) for part in path)


def shown(value: object) -> str:
    """A given value on one line, shortened to 60 characters."""
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def listed(names: object) -> str:
    """Names for an error message: `a, b`; `none` if there are none."""
    return ", ".join(map(str, names)) if isinstance(names, list | tuple | dict) and names else "none"


def mapping_text(models: Sections) -> str:
    """Sections in words: that it is a mapping, and which kinds there are."""
    kinds = [kind for model in models if (kind := kind_of(model))]
    return f"mapping with kind {' | '.join(kinds)}" if kinds else "mapping"


def type_text(shape: Shape, sections_text: Callable[[Sections], str] = mapping_text) -> str:
    """The type in words: `integer`, `list of name`, `number or null`."""
    models = sections(shape)
    texts = [sections_text(models)] if models else []
    texts += [_option_type(option, sections_text) for option in options(shape) if option.annotation not in models]
    return " or ".join(dict.fromkeys(texts))


def allowed_text(shape: Shape) -> str:
    """The constraints in words: `at least 1`, `adamw | sgd`; empty if the type says it all."""
    return ", ".join(dict.fromkeys(text for option in options(shape) if (text := _option_allowed(option))))


def describe(shape: Shape) -> str:
    """Type and constraints in words: `integer (at least 1) or auto`."""
    models = sections(shape)
    texts = [mapping_text(models)] if models else []
    for option in options(shape):
        if option.annotation in models:
            continue
        allowed = _option_allowed(option)
        if get_origin(option.annotation) is Literal:
            texts.append(allowed)
        else:
            texts.append(_option_type(option, mapping_text) + (f" ({allowed})" if allowed else ""))
    return " or ".join(dict.fromkeys(texts))


def _is_name(option: Shape) -> bool:
    return any(isinstance(item, StringConstraints) for item in option.constraints)


def _option_type(option: Shape, sections_text: Callable[[Sections], str]) -> str:
    origin, arguments = get_origin(option.annotation), get_args(option.annotation)
    if origin is Literal:
        return "choice"
    if origin is tuple:
        return f"list of {type_text(Shape(arguments[0]), sections_text)}"
    if origin is dict:
        key, value = (type_text(Shape(argument), sections_text) for argument in arguments)
        return f"mapping of {key} to {value}"
    return "name" if _is_name(option) else _PLAIN[option.annotation]


def _option_allowed(option: Shape) -> str:
    origin, arguments = get_origin(option.annotation), get_args(option.annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (tuple, dict):
        lengths = [length for item in option.constraints if (length := getattr(item, "min_length", None))]
        inner = arguments[0 if origin is tuple else 1]
        return ", ".join([*(f"at least {length} of them" for length in lengths), *_number_bounds(inner)])
    if option.annotation in (int, float):
        return ", ".join(
            f"{words} {bound}"
            for item in option.constraints
            for field, words in _BOUNDS.items()
            if (bound := getattr(item, field, None)) is not None
        )
    return "letters, digits, '_', '.', '-'; at most 64" if _is_name(option) else ""


def _number_bounds(annotation: object) -> list[str]:
    """Bounds on the numbers in a list or in a mapping, such as the cadences."""
    shapes = options(Shape(annotation))
    return [f"each {_option_allowed(shape)}" for shape in shapes if shape.annotation in (int, float)]
