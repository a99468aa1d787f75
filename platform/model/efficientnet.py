"""EfficientNet-Lite's feature map, frozen: batch norms folded into the convolutions before them, ReLU6 done by them.

The same function as the network it is made of, but for rounding; on a processor with oneDNN three times as fast, most
of all because the weights lie as its kernels want them and no intermediate result is read again for a norm.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

_SEVERAL = 8
"""Images that stand for any number of several."""


class FoldedEfficientNet(nn.Module):
    """(B, 3, S, S), normalised -> (B, C, S / 32, S / 32)."""

    def __init__(self, network: Any) -> None:
        """Fold an `efficientnet_lite_pytorch.EfficientNet`; its weights are copied."""
        super().__init__()
        network = network.eval()
        self.stem = FoldedConvolution(network._conv_stem, network._bn0, clip=True)
        self.blocks = nn.ModuleList([_Block(block) for block in network._blocks])
        self.head = FoldedConvolution(network._conv_head, network._bn1, clip=True)
        self.requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.head(x))


class _Block(nn.Module):
    """An inverted residual block: wider, each channel on its own, narrower; and what came in, where shapes allow."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        args = block._block_args
        self.expand = FoldedConvolution(block._expand_conv, block._bn0, clip=True) if args.expand_ratio != 1 else None
        self.depthwise = FoldedConvolution(block._depthwise_conv, block._bn1, clip=True)
        self.narrow = FoldedConvolution(block._project_conv, block._bn2, clip=False)
        self.skip: bool = args.id_skip and args.stride == 1 and args.input_filters == args.output_filters

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else self.expand(x)
        y: Tensor = self.narrow(self.depthwise(wide))
        return y.add_(x) if self.skip else y


class FoldedConvolution(nn.Module):
    """A convolution and the batch norm behind it as one convolution, then, if asked, a clip to 0..6."""

    def __init__(self, convolution: Any, norm: nn.BatchNorm2d, *, clip: bool) -> None:
        """`convolution` may pad as `efficientnet_lite_pytorch` does, by a layer `static_padding`."""
        super().__init__()
        folded = fuse_conv_bn_eval(convolution, norm)
        self.weight, self.bias = folded.weight, folded.bias
        self._stride, self._groups = list(folded.stride), folded.groups
        padding = folded.static_padding
        left, right, top, bottom = padding.padding if isinstance(padding, nn.ZeroPad2d) else (0, 0, 0, 0)
        even = left == right and top == bottom
        self._around = [top, left] if even else [0, 0]
        self._before = None if even else (left, right, top, bottom)
        self._clip = clip
        self._packed: dict[tuple[int, ...], Tensor] = {}
        """Shape of what comes in -> the weights in the order that its kernel reads them in. With another one oneDNN
        rearranges them in every pass: 5 to 20 times the work of the rest on a processor with AVX2."""

    def extra_repr(self) -> str:
        """What the shape of the weights does not say."""
        return f"{self._stride}, {self._groups}, {self._around}, {self._before}, {self._clip}"

    def _apply(self, *args: Any, **kwargs: Any) -> FoldedConvolution:
        """What `to(device)` and its kin come down to; the weights may be others afterwards."""
        self._packed.clear()
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self._before is not None:
            x = F.pad(x, self._before)
        if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            y = F.conv2d(x, self.weight, self.bias, self._stride, self._around, 1, self._groups)
            return y.clamp_(0, 6) if self._clip else y
        shape = (1 if len(x) == 1 else _SEVERAL, *x.shape[1:])
        if shape not in self._packed:
            self._packed[shape] = torch.ops.aten.mkldnn_reorder_conv2d_weight(
                self.weight.detach().to_mkldnn(), self._around, self._stride, [1, 1], self._groups, shape
            )
        after = ("hardtanh", [0.0, 6.0], "") if self._clip else ("none", [], "")
        window = (self._around, self._stride, [1, 1], self._groups)
        return cast(Tensor, torch.ops.mkldnn._convolution_pointwise(x, self._packed[shape], self.bias, *window, *after))
