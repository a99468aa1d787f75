"""Flower's ClientApp. A module of its own, so that Ray's workers import it once and keep what it has loaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from exchange import Shared
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from models import Rows, build, load, train, trained
from torch import nn

app = ClientApp()


@cache
def loaded(folder: str) -> tuple[Shared, nn.Module, Rows]:
    """What a process keeps."""
    shared = Shared(Path(folder))
    return shared, build(shared), Rows(shared)


@app.train()
def train_client(message: Message, context: Context) -> Message:
    """Train from the arrays that came on this client's rows of the round."""
    config = message.content["config"]
    number, client = int(config["server-round"]), int(config["client"])
    shared, model, rows = loaded(str(config["folder"]))
    arrays = message.content["arrays"]
    if shared.settings.optimizer != "none":
        load(model, arrays.to_torch_state_dict())
        train(shared.settings, model, rows.batches(number, client))
        arrays = ArrayRecord(trained(model))
    metrics = MetricRecord({"num-examples": shared.orders.samples(number, client)})
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
