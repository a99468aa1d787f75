"""Steps of devices that train together are those of torch's own optimizers, one for each device."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Literal

import pytest
import torch
from torch import nn

from fogtune.platform.config import Local
from fogtune.platform.learning.optimizer import Optimizer
from fogtune.platform.learning.stack import Stack

SHAPES = {"encoder/a": {"weight": torch.Size([3, 2]), "bias": torch.Size([3])}, "head/b": {"weight": torch.Size([4])}}
STEPS: Sequence[Mapping[int, Sequence[str]]] = [
    {0: ["encoder/a", "head/b"], 1: ["head/b"]},
    {0: ["encoder/a"], 1: ["encoder/a"]},
    {1: ["encoder/a", "head/b"]},
]
"""Device -> modules that its loss came through, step by step."""


def values(generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
    return {m: {n: torch.randn(s, generator=generator) for n, s in named.items()} for m, named in SHAPES.items()}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("together", [False, True])
def test_steps_are_those_of_torch(kind: Literal["sgd", "adamw"], decay: float, together: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [values(generator) for _ in range(2)]
    stack = Stack(starts, SHAPES)
    stack.begin(torch.device("cpu"))
    mine = Optimizer(stack, Local(optimizer=kind, weight_decay=decay), together)
    theirs, parameters = [], []
    for start in starts:
        one = {m: nn.Parameter(torch.cat([t.flatten() for t in named.values()])) for m, named in start.items()}
        cls = torch.optim.SGD if kind == "sgd" else torch.optim.AdamW
        parameters.append(one)
        theirs.append(cls(one.values(), 1.0, weight_decay=decay, fused=True))
    for i, step in enumerate(STEPS):
        used = {v: list(SHAPES) for v in range(2)} if together else step
        rates = {v: 0.1 if together else 0.1 * (v + 1) / (i + 1) for v in used}
        for grads in stack.grads.values():
            grads.copy_(torch.randn(grads.shape, generator=generator))
        mine.step(rates, used)
        for v, modules in used.items():
            theirs[v].param_groups[0]["lr"] = rates[v]
            for module, parameter in parameters[v].items():
                parameter.grad = stack.grads[module][v].clone() if module in modules else None
            theirs[v].step()
    for v, one in enumerate(parameters):
        for module, parameter in one.items():
            assert torch.equal(stack.values[module][v], parameter)


def test_torchs_compiler_stays_out() -> None:
    code = (
        "import sys, torch\n"
        "from fogtune.platform.config import Local\n"
        "from fogtune.platform.learning.optimizer import Optimizer\n"
        "from fogtune.platform.learning.stack import Stack\n"
        "stack = Stack([{'head/b': {'w': torch.ones(2)}}], {'head/b': {'w': torch.Size([2])}})\n"
        "stack.begin(torch.device('cpu'))\n"
        "stack.grads['head/b'].fill_(1.0)\n"
        "Optimizer(stack, Local(), True).step({0: 0.1}, {0: ['head/b']})\n"
        "print('torch._dynamo' in sys.modules, float(stack.values['head/b'][0, 0]) < 1)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False True"
