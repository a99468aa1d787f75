"""What heads of several inputs see: every modality, and a product that is there only if all of them are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from fogtune.platform.model.pooling import BilinearPooling

INPUTS = ("text", "image")


def pools(*modalities: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {modality: torch.randn(5, 4, generator=generator) for modality in modalities}


def test_modalities_side_by_side_then_the_product() -> None:
    pooling = BilinearPooling(INPUTS, width=4, rank=3)
    given = pools(*INPUTS)
    pooled = pooling(given)
    assert pooled.shape == (5, pooling.width)
    assert pooling.width == 11
    assert torch.equal(pooled[:, :4], given["text"])
    assert torch.equal(pooled[:, 4:8], given["image"])
    product = torch.tanh(pooling.project["text"](given["text"])) * torch.tanh(pooling.project["image"](given["image"]))
    product = layer_norm(product, (3,))
    again = torch.tanh(pooling.mix(product)) * torch.tanh(pooling.again(given["text"]))
    torch.testing.assert_close(pooled[:, 8:], layer_norm(again, (3,)))


def test_the_place_of_a_modality_does_not_depend_on_the_order_in_the_batch() -> None:
    pooling = BilinearPooling(INPUTS, width=4, rank=3)
    given = pools(*INPUTS)
    assert torch.equal(pooling(given), pooling(dict(reversed(given.items()))))


def test_what_is_missing_is_zero_and_so_is_the_product() -> None:
    pooled = BilinearPooling(INPUTS, width=4, rank=3)(pools("image"))
    assert not pooled[:, :4].any()
    assert bool(pooled[:, 4:8].all())
    assert not pooled[:, 8:].any()


def test_a_comparison_and_its_denial_can_be_learned() -> None:
    """Is it so, or is it not so, that two signs agree? No linear function of what the modalities say can tell."""
    torch.manual_seed(0)
    cases = torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * 3)  # what is asked for, whether it is denied, what is
    yes = (cases.prod(1) > 0).long()
    given = {"text": cases[:, :2] @ torch.randn(2, 16), "image": cases[:, 2:] @ torch.randn(1, 16)}

    def accuracy(pooling: BilinearPooling | None) -> float:
        head = torch.nn.Linear(pooling.width if pooling else 32, 2)
        parameters = [*head.parameters(), *(pooling.parameters() if pooling else ())]
        optimizer = torch.optim.AdamW(parameters, lr=0.02)
        for _ in range(200):
            features = pooling(given) if pooling else torch.cat(list(given.values()), dim=1)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(head(features), yes).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return float((head(features).argmax(-1) == yes).float().mean())

    assert accuracy(BilinearPooling(INPUTS, width=16, rank=16)) == 1.0
    assert accuracy(None) <= 0.75
