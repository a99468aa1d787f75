"""How messages to the user list what there is, on one line however much that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

_AT_MOST = 20


def listed(names: Iterable[object]) -> str:
    """`a, b, c`; after twenty names `... (57 in all)`; `nothing` for none."""
    values = [str(name) for name in names]
    text = ", ".join(islice(values, _AT_MOST))
    return f"{text}, ... ({len(values)} in all)" if len(values) > _AT_MOST else text or "nothing"


def some(names: Sequence[str], separator: str = ", ") -> str:
    """`a, b, c and 4 more`: the first three, where any are as good as all."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return separator.join(names[:3]) + more


def quoted(value: object) -> str:
    """A value of the user's in quotes, cut to sixty characters, control characters escaped."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
