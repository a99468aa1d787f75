"""Lists in messages."""

from __future__ import annotations

from fogtune.platform.wording import listed, quoted, some


def test_long_lists_and_values_are_cut() -> None:
    assert listed([]) == "nothing"
    assert listed(["a", "b"]) == "a, b"
    assert listed(range(30)).endswith("18, 19, ... (30 in all)")
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(list("abcde"), "; ") == "a; b; c and 2 more"
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted("x" * 500)) == 60
