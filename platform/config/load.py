"""Reading and writing a configuration.

YAML file or mapping -> overrides -> validated `Config`. That its parts fit each other is `check`'s concern; what a
preset's name stands for is the command line's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import InputError
from .describe import shown
from .overrides import apply_overrides
from .parsing import parse_yaml
from .problems import input_error
from .root import Config


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """The configuration in a YAML file, or in a mapping of the same form, with `path=value` overrides applied.

    Raises InputError, in one line, for a file that cannot be read, for what is not YAML or no mapping, and for the
    first field that is unknown, missing or has a value that is not allowed.
    """
    values = _plain(source) if isinstance(source, Mapping) else _read(Path(source))
    apply_overrides(values, overrides)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise input_error(error, values) from error


def dump_config(config: Config) -> str:
    """The whole configuration, defaults included, as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _read(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(str(path), "no such file; give a YAML file") from error
    except UnicodeDecodeError as error:
        raise InputError(str(path), "not a text file; give a YAML file in UTF-8") from error
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise InputError(str(path), f"{shown(values)} given; allowed: a mapping with devices, sources, tasks")
    return values


def _plain(value: Any) -> Any:
    """A copy made of dicts and lists, as YAML gives them: overrides change it in place, tuples have become lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
