"""HTTP, version 2: the Open Inference Protocol, with Triton's binary tensors, configuration and repository index.

A model is a task; its versions are the published ones. The encoding is in serve/oip.py; errors carry the member `error`
that the protocol's clients read.
"""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, StrictBool, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from fogtune.platform.wording import quoted

from . import oip
from .problems import Problem, responses
from .service import Service
from .tensors import InputTensor
from .variants import GLOBAL

HEADER_LENGTH = "Inference-Header-Content-Length"
PLATFORM = "pytorch_safetensors"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository")

TaskName = Annotated[str, Path(description="A task of `GET /v1/tasks`.")]
Number = int | None  # of the path where the path has it, else of the query
Variant = Annotated[str | None, Query(description="`global`, `fog:<id>`, `device:<id>`; or the parameter `variant`.")]


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The server answers."""

    live: bool


class Ready(BaseModel):
    """The server has a version to serve."""

    ready: bool


class ModelReady(BaseModel):
    """The model can be asked."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A task as a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfigTensor(BaseModel):
    """A tensor in Triton's words; `dims` without the batch."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(BaseModel):
    """The part of Triton's ModelConfig that clients read."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]


class IndexRequest(BaseModel):
    """Which models to list."""

    ready: StrictBool = False


class IndexEntry(BaseModel):
    """A version of a model."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class OutputTensor(BaseModel):
    """An output; without `data` it follows the JSON in binary, `parameters.binary_data_size` bytes long."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferResponse(BaseModel):
    """The JSON of an inference response."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any]
    outputs: list[OutputTensor]


_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "minItems": 1, "items": InputTensor.model_json_schema()},
        "outputs": {"type": "array", "items": oip.RequestedOutput.model_json_schema()},
    },
}
_INDEX = {"requestBody": {"content": {"application/json": {"schema": IndexRequest.model_json_schema()}}}}
_INFER: dict[str, Any] = {
    "response_model": InferResponse,
    "responses": {200: {"content": _BINARY}, **responses(400, 404, 413, 415, 422, 503, 504)},
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _REQUEST}, **_BINARY}},
        "parameters": [{"name": HEADER_LENGTH, "in": "header", "schema": {"type": "integer", "minimum": 0}}],
    },
}


def routes(service: Service) -> APIRouter:
    """Routes below `/v2`. A version is named in the path, or as a query parameter as in v1."""
    router = APIRouter(prefix="/v2", tags=["v2"])
    metadata = ServerMetadata(name="fogtune", version=version_of("fogtune"), extensions=list(EXTENSIONS))
    errors = responses(404, 422, 503)

    @router.get("")
    async def server() -> ServerMetadata:
        """Name, version and extensions of the server."""
        return metadata

    @router.get("/health/live")
    async def live() -> Live:
        """Whether the server answers at all."""
        return Live(live=True)

    @router.get("/health/ready", responses=responses(503))
    async def ready() -> Ready:
        """Whether there is a version to serve."""
        if not service.ready():
            raise Problem(503, "no version can be served yet", retry_after_s=5)
        return Ready(ready=True)

    @router.get("/models/{task}", responses=errors)
    @router.get("/models/{task}/versions/{version}", responses=errors)
    def model_metadata(task: TaskName, version: Number = None) -> ModelMetadata:
        """What a task reads and gives, as tensors."""
        info = service.task(task, version)
        versions = [str(found.version) for found in service.versions() if found.state != "refused"]
        inputs, outputs = _described(oip.inputs_of(info)), _described(oip.outputs_of(info))
        return ModelMetadata(name=info.name, versions=versions, platform=PLATFORM, inputs=inputs, outputs=outputs)

    @router.get("/models/{task}/ready", responses=errors)
    @router.get("/models/{task}/versions/{version}/ready", responses=errors)
    def model_ready(task: TaskName, version: Number = None) -> ModelReady:
        """Whether a task can be asked."""
        return ModelReady(name=service.task(task, version).name, ready=True)

    @router.get("/models/{task}/config", responses=errors)
    @router.get("/models/{task}/versions/{version}/config", responses=errors)
    def model_config(task: TaskName, version: Number = None) -> ModelConfig:
        """A task as Triton would be configured for it."""
        info = service.task(task, version)
        return ModelConfig(
            name=info.name,
            platform=PLATFORM,
            backend="fogtune",
            max_batch_size=service.settings.max_inputs,
            input=_configured(oip.inputs_of(info)),
            output=_configured(oip.outputs_of(info)),
        )

    @router.post("/models/{task}/infer", **_INFER)
    @router.post("/models/{task}/versions/{version}/infer", **_INFER)
    async def infer(request: Request, task: TaskName, version: Number = None, variant: Variant = None) -> Response:
        """Predict a batch of samples."""
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Problem(415, f"Content-Encoding is {encoding}; allowed: identity", "Content-Encoding")
        parsed = oip.parse(await request.body(), _header_length(request))
        variant = _one_variant(parsed.variant, variant)
        info = service.task(task) if version is None else await run_in_threadpool(service.task, task, version)
        outputs = oip.wanted(parsed, info)
        images = {found.name for found in info.inputs if found.kind == "image"}
        if images.isdisjoint(tensor.name for tensor in parsed.inputs):
            samples = oip.samples(parsed, info, service.settings)
        else:  # seconds for large ones, in which others want to be answered
            samples = await run_in_threadpool(oip.samples, parsed, info, service.settings)
        answer = await service.predict(task, samples, variant, version)
        body, header_length = oip.encode(answer, outputs, parsed.header.id)
        if header_length is None:
            return Response(body, media_type="application/json")
        headers = {HEADER_LENGTH: str(header_length)}
        return Response(body, headers=headers, media_type="application/octet-stream")

    @router.post("/repository/index", responses=responses(400, 503), openapi_extra=_INDEX)
    async def index(request: Request) -> list[IndexEntry]:
        """Every version of every task."""
        try:
            asked = IndexRequest.model_validate_json(await request.body() or b"{}")
        except ValidationError as error:
            raise Problem(400, f'the body: {error.errors()[0]["msg"]}; allowed: {{}} or {{"ready": true}}') from None
        versions = await run_in_threadpool(service.versions)
        return [
            IndexEntry(
                name=task.name,
                version=str(found.version),
                state="UNAVAILABLE" if found.state == "refused" else "READY",
                reason=found.reason or "",
            )
            for task in service.stable().tasks.values()
            for found in versions
            if not (asked.ready and found.state == "refused")
        ]

    return router


def _header_length(request: Request) -> int | None:
    given = request.headers.get(HEADER_LENGTH)
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise Problem(400, f"{HEADER_LENGTH} is {quoted(given)}; allowed: bytes of JSON", HEADER_LENGTH)
    return int(given)


def _one_variant(parameter: str | None, query: str | None) -> str:
    if parameter is not None and query is not None and parameter != query:
        both = f"{quoted(parameter)} as a parameter and {quoted(query)} in the query"
        raise Problem(400, f"variant is {both}; allowed: one of them", "parameters.variant")
    return parameter or query or GLOBAL


def _described(tensors: list[oip.Described]) -> list[TensorMetadata]:
    return [TensorMetadata(name=name, datatype=datatype, shape=shape) for name, datatype, shape in tensors]


def _configured(tensors: list[oip.Described]) -> list[ConfigTensor]:
    kinds = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}
    return [ConfigTensor(name=name, data_type=kinds[datatype], dims=shape[1:]) for name, datatype, shape in tensors]
