"""What pydantic found wrong, as one line: the field, the given value, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..errors import InputError
from .describe import describe, dotted, listed, shown
from .shape import Path, kind_of, section_of, sections, shape_at, value_at


def input_error(error: ValidationError, values: object) -> InputError:
    """The first problem in one line, with the number of further ones.

    `values` are the plain values that were refused. Unknown fields come first: a misspelt field is often why another
    is missing.
    """
    details = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    first = details[0]
    path = _clean(first, values)
    # One wrong value in a union of types is reported once a type, and a list of nothing but wrong items once more as
    # too short: they are one problem.
    others = {_clean(found, values) for found in details} - {path[:length] for length in range(len(path) + 1)}
    more = f" (and {len(others)} more problem{'s' if len(others) > 1 else ''})" if others else ""
    where, problem = _explain(first, path, values)
    return InputError(where, problem + more)


def _clean(found: ErrorDetails, values: object) -> tuple[str | int, ...]:
    """The location without pydantic's own parts: union tags and `[key]`."""
    path: list[str | int] = []
    *outer, last = found["loc"] or ("",)
    for part in outer:
        here = value_at(path, values)
        if (isinstance(here, Mapping) and part in here) or (isinstance(here, list) and isinstance(part, int)):
            path.append(part)
    here = value_at(path, values)
    if isinstance(here, Mapping | list) and last != "[key]" and not _is_tag(path, last, values):
        path.append(last)
    return tuple(path)


def _is_tag(path: Path, part: str | int, values: object) -> bool:
    """Whether a last part that is no key here names a member of a union."""
    here = value_at(path, values)
    if isinstance(here, Mapping) and part in here:
        return False
    shape = shape_at(path, values)
    models = sections(shape) if shape is not None else ()
    return len(models) > 1 and part in [kind_of(model) for model in models]


def _explain(found: ErrorDetails, path: Path, values: object) -> tuple[str, str]:
    where = dotted(path) or "configuration"
    kind = found["type"]
    if kind == "extra_forbidden":
        return where, _unknown(path, values)
    if kind == "invalid_key" or found["loc"][-1:] == ("[key]",):
        return where, f"{shown(path[-1])} is no name; allowed: letters, digits, '_', '.', '-', at most 64"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        given = value_at((*path, "kind"), values)
        return f"{where}.kind", _wrong(given, missing=kind == "union_tag_not_found", allowed=_kinds(path, values))
    if kind == "value_error":
        return where, f"{shown(found['input'])}: {str(found['ctx']['error']).rstrip('.')}"
    shape = shape_at(path, values)
    allowed = describe(shape) if shape is not None else found["msg"]
    if kind == "finite_number":
        allowed += ", finite"
    if kind == "string_type" and isinstance(found["input"], int | float):
        allowed += ", in quotes"
    return where, _wrong(found["input"], missing=kind == "missing", allowed=allowed)


def _wrong(given: object, *, missing: bool, allowed: str) -> str:
    return f"{'missing' if missing else f'{shown(given)} given'}; allowed: {allowed}"


def _kinds(path: Path, values: object) -> str:
    shape = shape_at(path, values)
    return " | ".join(filter(None, map(kind_of, sections(shape)))) if shape is not None else ""


def _unknown(path: Path, values: object) -> str:
    parent = path[:-1]
    section = section_of(shape_at(parent, values), value_at(parent, values))
    fields = list(section.model_fields) if section is not None else []
    close = difflib.get_close_matches(str(path[-1]), fields, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown field, given {shown(value_at(path, values))}; {hint}allowed: {listed(fields)}"
