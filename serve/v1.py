"""HTTP, version 1: plain JSON. Tasks, variants, predictions, versions.

inputs -> decoded (in a thread, where images are among them) -> Service.predict -> labels and scores
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from fogtune.platform.data.table import Raw
from fogtune.platform.wording import listed, quoted

from .decoding import Decoder
from .labels import chosen
from .problems import Problem, responses
from .registry import TaskInfo
from .rollout import Rollout
from .service import Answer, Service
from .settings import Settings
from .variants import GLOBAL

TaskName = Annotated[str, Path(description="A task of `GET /v1/tasks`.")]
Variant = Annotated[str, Query(description="`global`, `fog:<id>`, `device:<id>`.")]
VersionNumber = Annotated[int | None, Query(ge=0, description="A published version; none for the one served now.")]


class InputModel(BaseModel):
    """What a task reads of one modality."""

    name: str
    kind: Literal["text", "image", "series"]
    channels: int | None


class TaskModel(BaseModel):
    """A task of the version served now."""

    name: str
    head: str
    inputs: list[InputModel]
    labels: list[str]
    metrics: dict[str, float]
    version: int
    """Served now."""
    versions: list[int]
    """That can be asked for."""


class TaskList(BaseModel):
    """The tasks."""

    tasks: list[TaskModel]


class VariantList(BaseModel):
    """Variants with a head of their own or of a node above."""

    variants: list[str]
    total: int
    """How many match, whatever the limit."""


class Body(BaseModel):
    """What a request may bring. One thing wrong is enough to refuse it: a list of all would be longer than the body."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        unknown = next((name for name in given if name not in cls.model_fields), None) if type(given) is dict else None
        if unknown is not None:
            allowed = {"name": quoted(unknown[:60]), "allowed": listed(cls.model_fields)}
            raise PydanticCustomError("unknown", "{name} is unknown; allowed: {allowed}", allowed)
        return given


class PredictRequest(Body):
    """Samples to predict."""

    inputs: Annotated[list[dict[str, Any]], FailFast()] = Field(
        min_length=1, examples=[[{"text": "what shape is in the image?", "image": "<base64>"}]]
    )
    """Modality -> text; image: base64 of a PNG, JPEG or WebP file; series: T rows of C numbers, or a plain list: one
    row, or all rows of one number. null: missing."""


class Prediction(BaseModel):
    """Of one sample: label and scores of a classification, labels and scores of a multi-label task, or the value."""

    label: str | None = None
    labels: list[str] | None = None
    scores: dict[str, float] | None = None
    value: float | None = None


class PredictResponse(BaseModel):
    """Predictions in the order of the inputs; members of a prediction that do not apply are left out."""

    task: str
    version: int
    variant: str
    predictions: list[Prediction]


class VersionModel(BaseModel):
    """A published version."""

    version: int
    state: Literal["stable", "canary", "ready", "refused"]
    reason: str | None
    """Why it is refused."""
    metrics: dict[str, dict[str, float]]
    """Task -> metric -> value."""


class VersionList(BaseModel):
    """All published versions, and which of them answer."""

    versions: list[VersionModel]
    rollout: Rollout


class Promotion(Body, strict=True):
    """A version to serve."""

    version: Annotated[int, Field(ge=0)] | Literal["latest"]
    percent: float = Field(default=100, gt=0, le=100)
    """Of the requests that name no version; below 100 the version is a canary."""


def routes(service: Service) -> APIRouter:
    """Routes below `/v1`."""
    router = APIRouter(prefix="/v1", tags=["v1"])

    @router.get("/tasks", responses=responses(503))
    def list_tasks() -> TaskList:
        """The tasks, what they read and what they give."""
        stable = service.stable()
        ready = [found.version for found in service.versions() if found.state != "refused"]
        return TaskList(tasks=[_task_model(task, stable.number, ready) for task in stable.tasks.values()])

    @router.get("/tasks/{task}/variants", responses=responses(404, 422, 503))
    def list_variants(
        task: TaskName,
        contains: Annotated[str, Query(description="Part of the name.")] = "",
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    ) -> VariantList:
        """Whose heads can be asked: the global one, regions' and devices'."""
        found = [variant for variant in service.variants(task) if contains in variant]
        return VariantList(variants=found[:limit], total=len(found))

    @router.post(
        "/tasks/{task}:predict",
        response_model=PredictResponse,
        response_model_exclude_none=True,
        responses=responses(400, 404, 413, 422, 503, 504),
    )
    async def predict(
        task: TaskName, body: PredictRequest, variant: Variant = GLOBAL, version: VersionNumber = None
    ) -> Response:
        """Predict a batch of samples."""
        if version is None:
            info = service.task(task)
        else:  # perhaps for the first time: its files are read and verified
            info = await run_in_threadpool(service.task, task, version)
        samples = await _samples(info, body, service.settings)
        answer = await service.predict(task, samples, variant, version)
        return Response(encode(answer), media_type="application/json")

    @router.get("/versions")
    def list_versions() -> VersionList:
        """What the run has published."""
        return _versions(service)

    @router.post("/versions:promote", responses=responses(400, 422))
    def promote(body: Promotion) -> VersionList:
        """Serve a version, or always the latest."""
        service.promote(None if body.version == "latest" else body.version, body.percent)
        return _versions(service)

    @router.post("/versions:rollback", responses=responses(409))
    def rollback() -> VersionList:
        """Take back a canary, else serve the version before."""
        service.rollback()
        return _versions(service)

    return router


async def _samples(task: TaskInfo, body: PredictRequest, settings: Settings) -> list[dict[str, Raw]]:
    if len(body.inputs) > settings.max_inputs:
        raise Problem(422, f"inputs has {len(body.inputs)} samples; allowed: at most {settings.max_inputs}", "inputs")

    def decoded() -> list[dict[str, Raw]]:
        decoder = Decoder(settings)
        return [decoder.sample(task, given, f"inputs.{row}") for row, given in enumerate(body.inputs)]

    images = [found.name for found in task.inputs if found.kind == "image"]
    if any(name in given for given in body.inputs for name in images):
        return await run_in_threadpool(decoded)  # seconds for large ones, in which others want to be answered
    return decoded()


def encode(answer: Answer) -> bytes:
    """`PredictResponse` as JSON; by hand, for pydantic would check each score."""
    task, rows = answer.task, answer.scores.tolist()
    predictions: list[dict[str, Any]]
    if task.head == "regression":
        predictions = [{"value": row[0]} for row in rows]
    else:
        scores = [dict(zip(task.labels, row, strict=True)) for row in rows]
        labels = chosen(answer)
        if task.head == "multilabel":
            predictions = [{"labels": said, "scores": row} for said, row in zip(labels, scores, strict=True)]
        else:
            predictions = [{"label": said[0], "scores": row} for said, row in zip(labels, scores, strict=True)]
    response = {"task": task.name, "version": answer.version, "variant": answer.variant, "predictions": predictions}
    return json.dumps(response, allow_nan=False, separators=(",", ":")).encode()


def _task_model(task: TaskInfo, version: int, versions: list[int]) -> TaskModel:
    return TaskModel(
        name=task.name,
        head=task.head,
        inputs=[InputModel(name=found.name, kind=found.kind, channels=found.channels) for found in task.inputs],
        labels=list(task.labels),
        metrics=dict(task.metrics),
        version=version,
        versions=versions,
    )


def _versions(service: Service) -> VersionList:
    found = [
        VersionModel(
            version=info.version,
            state=info.state,
            reason=info.reason,
            metrics={task: dict(metrics) for task, metrics in info.metrics.items()},
        )
        for info in service.versions()
    ]
    return VersionList(versions=found, rollout=service.rollout())
