"""The peer: what one writes without FogTune, a plain Ray Serve deployment that serves one request at a time.

It has the same backbone, encoders, prompts, experts and heads (those of M3TModel, by its plain forward pass), and for
each variant a PEFT adapter, loaded when first asked for and chosen by `set_adapter` for each request.

    python benchmarks/serving/plain.py RUN PORT
"""

import sys
from pathlib import Path
from typing import Any

import ray
import torch
from fastapi import FastAPI, Request
from ray import serve

from fogtune.serve.decoding import Decoder
from fogtune.serve.registry import Registry, read_module
from fogtune.serve.settings import Settings
from fogtune.serve.variants import resolve

app = FastAPI()


@serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=100)
@serve.ingress(app)
class Plain:
    """One model, one request after the other."""

    def __init__(self, run: str) -> None:
        from fogtune.platform.model.m3t import M3TModel

        self._registry = Registry(Path(run))
        self._settings = Settings(run=run)
        self._version = self._registry.read(self._registry.versions()[-1])
        labels = {name: task.labels for name, task in self._version.tasks.items()}
        self._model = M3TModel(self._registry.config, labels)
        self._loaded: dict[str, dict[str, Any]] = {}
        self._here: dict[str, str] = {}

    @app.post("/v1/tasks/{task}:predict")
    async def predict(self, task: str, request: Request, variant: str = "global") -> dict[str, Any]:
        """As FogTune's own route, for one sample."""
        import torch

        from fogtune.platform.learning.batches import padded
        from fogtune.platform.model.segments import Segment

        body = await request.json()
        sample = Decoder(self._settings).sample(self._version.tasks[task], body["inputs"][0], "inputs.0")
        registry = self._registry
        entries = resolve(registry.config, registry.tree, self._version, task, variant, sample)
        for module, entry in entries.items():
            if entry is None or self._here.get(module) == entry.sha256:
                continue
            if entry.sha256 not in self._loaded:
                self._loaded[entry.sha256] = read_module(entry)
                if module == "adapter/fusion":
                    self._add_adapter(entry.sha256)
            if module == "adapter/fusion":
                self._set_adapter(entry.sha256)
            else:
                with torch.no_grad():
                    for name, tensor in self._model.tensors_of[module].items():
                        tensor.copy_(self._loaded[entry.sha256][name])
            self._here[module] = entry.sha256
        with torch.inference_mode():
            inputs = {modality: padded([self._model.prefix(modality, raw)]) for modality, raw in sample.items()}
            scores = self._model(Segment(task, inputs)).outputs.softmax(-1)[0].tolist()
        labels = self._version.tasks[task].labels
        best = max(zip(scores, labels, strict=True))[1]
        found = {"label": best, "scores": dict(zip(labels, scores, strict=True))}
        return {"task": task, "version": self._version.number, "variant": variant, "predictions": [found]}

    def _add_adapter(self, name: str) -> None:
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

        from fogtune.platform.model.fused_lora import FusedLora

        config = LoraConfig(**{k: v for k, v in self._adapter_config().items() if v is not None})
        config._register_custom_module({torch.nn.Linear: FusedLora})
        inject_adapter_in_model(config, self._model.backbone.model, adapter_name=name)
        state = {key.removeprefix("base_model.model."): value for key, value in self._loaded[name].items()}
        set_peft_model_state_dict(self._model.backbone.model, state, adapter_name=name)

    def _adapter_config(self) -> dict[str, Any]:
        known = ("r", "lora_alpha", "target_modules", "lora_dropout")
        described = self._model.adapter_config or {}
        return {name: described[name] for name in known}

    def _set_adapter(self, name: str) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for layer in self._model.backbone.model.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.set_adapter(name)


if __name__ == "__main__":
    ray.init(address="local", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Plain.bind(sys.argv[1]), blocking=True)
