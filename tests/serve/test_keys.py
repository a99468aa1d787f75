"""API keys: shown once, hashed at rest, found by nothing but themselves; damaged files in one line."""

from __future__ import annotations

import hashlib
import re
import stat
from pathlib import Path

import pytest

from fogtune.platform.errors import InputError
from fogtune.serve.keys import Keys, new_key

HASH = "0" * 63 + "a"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def refusal(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Keys.load(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(path))
    return line.removeprefix(str(path))


def test_a_new_key_is_found_and_no_other(path: Path) -> None:
    first = new_key(path, "camera-team", requests_per_s=0.5)
    second = new_key(path, "operator", admin=True)
    assert re.fullmatch(r"fogtune_[A-Za-z0-9_-]{43}", first)
    keys = Keys.load(path)
    found = keys.find(first)
    assert found is not None
    assert (found.name, found.requests_per_s, found.burst, found.admin) == ("camera-team", 0.5, 1, False)
    found = keys.find(second)
    assert found is not None
    assert (found.name, found.requests_per_s, found.burst, found.admin) == ("operator", 50.0, 100, True)


def test_what_is_not_quite_a_key_is_nobody(path: Path) -> None:
    key = new_key(path, "me")
    keys = Keys.load(path)
    for given in (key.upper(), key[:-1], key + "A", " " + key, key.removeprefix("fogtune_"), "", "kéy"):
        assert keys.find(given) is None, given
    assert keys.find(hashlib.sha256(key.encode()).hexdigest()) is None
    assert keys.find(key) is not None


def test_the_file_holds_no_key_and_is_its_owners(path: Path) -> None:
    path.touch(mode=0o644)
    path.write_text("[]")
    key = new_key(path, "me")
    text = path.read_text(encoding="utf-8")
    assert key not in text
    assert key.removeprefix("fogtune_") not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_taken_name_is_refused_and_the_file_stays(path: Path) -> None:
    new_key(path, "me")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"1\.name: 'me' given; allowed: one that no other key has"):
        new_key(path, "me")
    with pytest.raises(InputError, match=r"1\.name: 'a b' given; allowed: Letters, digits"):
        new_key(path, "a b")
    with pytest.raises(InputError, match=r"1\.requests_per_s: -1 given; allowed: A number above 0, at most 1000000"):
        new_key(path, "you", requests_per_s=-1)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{}", ": {} given; allowed: a list of keys"),
        ("[]", ": holds no key; make one, or serve this machine alone without a keys file"),
        ("- me", ": 0: 'me' given; allowed: a mapping with name, sha256, requests_per_s, burst, admin"),
        ("- {name: me}", ": 0.sha256: missing; allowed: 64 hexadecimal digits"),
        ("- {name: me, sha256: abc}", ": 0.sha256: 'abc' given; allowed: 64 hexadecimal digits"),
        (f"- {{name: me, sha256: {HASH}, admin: 1}}", ": 0.admin: 1 given; allowed: true or false"),
        (f"- {{name: me, sha256: {HASH}, burst: 1.5}}", ": 0.burst: 1.5 given; allowed: An integer, at least 1"),
        (f"- {{name: me, sha256: {HASH}, burst: 0}}", ": 0.burst: 0 given; allowed: An integer, at least 1"),
        (
            f"- {{name: me, sha256: {HASH}, requests_per_s: 0}}",
            ": 0.requests_per_s: 0 given; allowed: A number above 0, at most 1000000",
        ),
        (
            f"- {{name: me, sha256: {HASH}, requests_per_s: .inf}}",
            ": 0.requests_per_s: inf given; allowed: A number above 0, at most 1000000",
        ),
        (
            f"- {{name: me, sha256: {HASH}, root: true}}",
            ": 0.root: unknown field, given true; allowed: name, sha256, requests_per_s, burst, admin",
        ),
        (
            f"- {{name: me, sha256: {HASH}}}\n- {{name: you, sha256: {HASH}}}",
            f": 1.sha256: '{HASH[:56]}... given; allowed: one that no other key has",
        ),
        ("- {name: me", ", line 1, column 12: expected ',' or '}', but got '<stream end>'"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(path: Path, text: str, line: str) -> None:
    assert refusal(path, text) == line


def test_a_key_put_where_its_hash_belongs_is_not_repeated(path: Path) -> None:
    key = new_key(path, "me")
    for text in (f"- {{name: me, sha256: {key}}}", f"- {{name: me, sha256: {HASH}, key: {key}}}", key):
        line = refusal(path, text)
        assert "a key (not repeated here)" in line
        assert key[8:16] not in line


def test_a_file_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(No such file or directory\); give a YAML file of keys"):
        Keys.load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"cannot be read \(not UTF-8\)"):
        Keys.load(path)
