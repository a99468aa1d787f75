"""API keys: who may use a service, how often, and who may change what it serves. Knows no HTTP.

The file is YAML, a list with an entry a key:

- name: camera-team
  sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  requests_per_s: 50.0
  burst: 100
  admin: false

Entries are hashed by plain sha256. A slow, salted hash protects what people choose and others could guess; a key is 256
random bits, which nobody finds by trying, and it is hashed at every request.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from fogtune.platform.config.base import Name, Section
from fogtune.platform.config.describe import shown
from fogtune.platform.config.parsing import parse_yaml
from fogtune.platform.errors import InputError
from fogtune.platform.run.atomic import replacing

PREFIX = "fogtune_"
"""Every key begins with it, so that scanners for leaked secrets can find one."""


class Key(Section, strict=True):
    """What is known of a key. The first sentence below each field says what is allowed there."""

    name: Name
    """Letters, digits, '_', '.', '-', at most 64. For people; no part of the key."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """64 hexadecimal digits. Of the key, which itself is stored nowhere."""
    requests_per_s: float = Field(default=50.0, gt=0, le=1e6)
    """A number above 0, at most 1000000. Lasting rate, of all gateways together."""
    burst: int = Field(default_factory=lambda given: _default_burst(given["requests_per_s"]), ge=1)
    """An integer, at least 1. Requests at once after a pause; two seconds' worth unless given."""
    admin: bool = False
    """true or false. Whether it may promote versions and roll back."""


class Keys:
    """The keys of a service."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple((bytes.fromhex(key.sha256), key) for key in keys)

    @classmethod
    def load(cls, path: Path) -> Keys:
        """The keys in a file.

        Raises InputError, in one line, if it cannot be read, has no key, or the first field that is unknown, missing,
        taken or not allowed. What looks like a key is never repeated in it.
        """
        keys = _read(path)
        if not keys:
            raise InputError(str(path), "holds no key; make one, or serve this machine alone without a keys file")
        return cls(keys)

    def find(self, key: str) -> Key | None:
        """Who a key belongs to; None if to nobody. Takes as long for a near miss as for a far one, and for any key."""
        given = hashlib.sha256(key.encode()).digest()
        found = None
        for stored, known in self._keys:
            if hmac.compare_digest(stored, given):
                found = known
        return found


def new_key(path: Path, name: str, requests_per_s: float = 50.0, *, admin: bool = False) -> str:
    """Adds a key to a file, which is made if there is none and which only its owner may read; returns the key.

    It is shown this once: the file has its hash alone. Raises InputError if the file is damaged or cannot be
    written, the name is taken or a value is not allowed; then the file stays as it was.
    """
    keys = _read(path) if path.exists() else []
    key = PREFIX + secrets.token_urlsafe(32)
    entry = {
        "name": name,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "requests_per_s": requests_per_s,
        "admin": admin,
    }
    keys = _distinct([*keys, _key(entry, len(keys), path)], path)
    text = yaml.safe_dump([known.model_dump() for known in keys], sort_keys=False)
    try:
        with replacing(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(str(path), f"cannot be written ({error.strerror}); allowed: a file in a folder") from error
    return key


def _default_burst(requests_per_s: float) -> int:
    return max(1, math.ceil(2 * requests_per_s))


def _read(path: Path) -> list[Key]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(str(path), f"cannot be read ({reason}); give a YAML file of keys") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, list):
        raise InputError(str(path), f"{_shown(values)} given; allowed: a list of keys")
    return _distinct([_key(value, index, path) for index, value in enumerate(values)], path)


def _key(value: Any, index: int, path: Path) -> Key:
    try:
        return Key.model_validate(value)
    except ValidationError as error:
        raise _input_error(error.errors(include_url=False)[0], f"{path}: {index}") from error


def _distinct(keys: list[Key], path: Path) -> list[Key]:
    for field in ("name", "sha256"):
        seen: set[str] = set()
        for index, key in enumerate(keys):
            value = getattr(key, field)
            if value in seen:
                raise InputError(
                    f"{path}: {index}.{field}", f"{shown(value)} given; allowed: one that no other key has"
                )
            seen.add(value)
    return keys


def _input_error(found: ErrorDetails, where: str) -> InputError:
    fields = Key.model_fields
    if not found["loc"]:
        return InputError(where, f"{_shown(found['input'])} given; allowed: a mapping with {', '.join(fields)}")
    field = str(found["loc"][0])
    if field not in fields:
        problem = f"unknown field, given {_shown(found['input'])}; allowed: {', '.join(fields)}"
    else:
        given = "missing" if found["type"] == "missing" else f"{_shown(found['input'])} given"
        problem = f"{given}; allowed: {(fields[field].description or '').partition('. ')[0]}"
    return InputError(f"{where}.{shown(field)[1:-1]}", problem)


def _shown(value: object) -> str:
    """For a message that may end in a log: somebody may have put the key itself where its hash belongs."""
    return "a key (not repeated here)" if PREFIX in repr(value) else shown(value)
