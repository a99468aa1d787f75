"""Predictions for the command line: by a run on this machine, or by a service.

Both ways take the same inputs and give the same object, that of `POST /v1/tasks/{task}:predict`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from fogtune.platform.errors import FogTuneError, InputError
from fogtune.platform.wording import listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMEOUT_S = 60.0


class Refused(FogTuneError):
    """The service, or the run, cannot answer."""


def predict_offline(run: Path, task: str, inputs: Sequence[str], variant: str, version: int | None) -> Any:
    """Predict one sample in this process, without Ray.

    Args:
        run: the run's directory.
        task: whose head.
        inputs: `modality=value` each; the value is a text, or the path of an image or of a series (CSV, npy).
        variant: global, fog:ID, device:ID, ...
        version: None for what the run's rollout says.

    Raises:
        InputError: something of it is not allowed.
        Refused: the run has no version that can be served.
    """
    from fogtune.serve.decoding import Decoder
    from fogtune.serve.local import local_service
    from fogtune.serve.problems import Problem
    from fogtune.serve.settings import Settings
    from fogtune.serve.v1 import encode

    settings = Settings(run=str(run))
    service = local_service(settings)
    try:
        info = service.task(task, version)
        sample = _read({declared.name: declared.kind for declared in info.inputs}, inputs)
        decoded = Decoder(settings).sample(info, sample, "--input")
        answer = asyncio.run(service.predict(task, [decoded], variant, version))
    except Problem as problem:
        if problem.status >= 500:
            raise Refused(f"{run}: {problem.detail}") from None
        field = problem.field or "task"
        raise InputError(field if field.startswith("--") else f"--{field}", problem.detail) from None
    return json.loads(encode(answer))


def predict_by_url(
    url: str, task: str, inputs: Sequence[str], variant: str, version: int | None, key: str | None
) -> Any:
    """Let the service at `url` predict one sample; arguments as in `predict_offline`, and an API key.

    Raises:
        InputError: something of it is not allowed.
        Refused: the service cannot be reached, or cannot answer now.
    """
    base = url.rstrip("/")
    key = key and key.strip()
    if key and not (key.isascii() and key.isprintable()):
        raise InputError("--key", "has characters that no key has; allowed: what `fogtune key` prints")
    try:
        tasks = {found["name"]: found for found in _ask(f"{base}/v1/tasks", None, key)["tasks"]}
    except (KeyError, TypeError):
        raise Refused(f"{base}: no service of FogTune") from None
    if task not in tasks:
        raise InputError("--task", f"{task!r}; allowed: {listed(tasks)}")
    sample = _read({declared["name"]: declared["kind"] for declared in tasks[task]["inputs"]}, inputs)
    query = urlencode({"variant": variant} | ({} if version is None else {"version": version}))
    return _ask(f"{base}/v1/tasks/{quote(task)}:predict?{query}", {"inputs": [sample]}, key)


def _read(kinds: Mapping[str, str], inputs: Sequence[str]) -> dict[str, Any]:
    """Modality -> value as JSON has it. InputError names the argument."""
    sample: dict[str, Any] = {}
    for given in inputs:
        name, equals, value = given.partition("=")
        if not equals or name not in kinds or name in sample:
            raise InputError("--input", f"{given!r}; allowed, once each: {listed([f'{name}=...' for name in kinds])}")
        try:
            match kinds[name]:
                case "text":
                    sample[name] = value
                case "image":
                    sample[name] = base64.b64encode(Path(value).read_bytes()).decode()
                case _:
                    sample[name] = _series(Path(value))
        except OSError as error:
            raise InputError(f"--input {name}", f"{value!r} cannot be read: {error.strerror}") from None
    if not sample:
        raise InputError("--input", f"none given; allowed: {listed([f'{name}=...' for name in kinds])}")
    return sample


def _series(path: Path) -> list[Any]:
    import numpy as np

    values: NDArray[Any]
    allowed = "allowed: npy, or CSV, of numbers: a row a time step, a column a channel, or one row in npy"
    try:
        with path.open("rb") as file:
            if path.suffix == ".npy":
                values = np.lib.format.read_array(file, allow_pickle=False)
            else:
                lines = [line for line in file.read().decode().splitlines() if line.strip()]
                values = np.loadtxt(lines, delimiter=",", ndmin=2) if lines else np.empty(0)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError("--input", f"{str(path)!r} is no series ({reason}); {allowed}") from None
    if values.ndim not in (1, 2) or not values.size or values.dtype.kind not in "fiu":
        raise InputError("--input", f"{str(path)!r} is no series ({values.dtype} {values.shape}); {allowed}")
    return values.tolist()  # type: ignore[no-any-return]


def _ask(url: str, body: Any, key: str | None) -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        request = Request(url, None if body is None else json.dumps(body).encode(), headers)
        with urlopen(request, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except HTTPError as error:
        with error:
            problem = _problem(error)
        if error.code in (400, 401, 403, 404, 413, 422):
            raise InputError(url.partition("?")[0], problem) from None
        raise Refused(f"{url}: {problem}") from None
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise Refused(f"{url}: no answer of a service ({getattr(error, 'reason', error)})") from None


def _problem(error: HTTPError) -> str:
    try:
        return f"{error.code}: {json.load(error)['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
