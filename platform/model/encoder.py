"""What all encoders are: one sample of a modality -> tokens of the model's width.

An encoder has a frozen part, `prefix`, a pure function of the sample that is computed once and cached, and a trained
part, `forward`, over padded batches of prefixes. Legend: B samples, T steps or tokens, C channels, D width of the
model: the backbone's, where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fogtune.platform.data.table import Raw


class Encoder(nn.Module):
    """Base of all encoders; its parameters, all trained, are the module `encoder/<modality>`."""

    channels: int
    """C of its prefixes."""
    grouped = False
    """Whether `forward` takes parameters of groups of samples, (G, ...), as `rows` has it."""

    def prefix(self, raw: Raw) -> Tensor:
        """One sample -> (T, C): what lies below the first trained parameter."""
        return self.prefixes([raw])[0]

    def prefixes(self, raws: Sequence[Raw]) -> list[Tensor]:
        """Samples -> (T, C) of each; as if each were alone, but for rounding."""
        raise NotImplementedError

    def prefixes_exactly(self, raws: Sequence[Raw]) -> list[Tensor]:
        """`prefixes` with the bits of `prefix`, whoever shares a pass."""
        return [self.prefix(raw) for raw in raws]

    def fingerprint(self) -> str | None:
        """Of all that its prefixes are computed with (.fingerprint); None where nothing is computed."""
        return None

    def num_tokens(self, length: int) -> int:
        """Tokens of a prefix of `length`."""
        return length

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Prefixes, standardised, to tokens; what a sample becomes does not depend on its padding.

        Args:
            values: (B, T, C), zeros behind the end of a sample.
            mask: (B, T) int64, ones, then zeros.

        Returns:
            Tokens (B, T', D), anything where nothing is, and their mask (B, T') int64.
        """
        raise NotImplementedError
