"""What stands in the backbone's place in a model without one, and which of the two a model has."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fogtune.platform.config import Model

from .backbone import AfterBlock, Backbone


class NoBackbone(nn.Module):
    """Tokens pass as they are; no task reads text (platform/config/check_model.py).

    Legend: B samples, T tokens, D = `width`.
    """

    max_tokens: int | None = None
    """As many as there are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @property
    def fusion_blocks(self) -> list[nn.Module]:
        """None."""
        return []

    def texts_tokens(self, texts: Sequence[str]) -> list[Tensor]:
        """Nothing here encodes text."""
        raise RuntimeError(f"{len(texts)} texts without a backbone")

    def use_bf16(self) -> None:
        """There are no products here."""

    def fuse(self, tokens: Tensor, mask: Tensor, after: AfterBlock | None = None) -> Tensor:
        """The tokens (B, T, D), as they are: there is no block, and nothing after it."""
        return tokens


def build_backbone(model: Model) -> Backbone | NoBackbone:
    """What a model's tokens pass through. Raises InputError: the backbone cannot be used."""
    if model.backbone is None:
        assert model.width is not None  # platform/config/check_model.py
        return NoBackbone(model.width)
    return Backbone(model.backbone)
