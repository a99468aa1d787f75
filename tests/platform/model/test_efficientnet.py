"""The folded network against the one that it is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from fogtune.platform.data.assets import efficientnet_weights
from fogtune.platform.model.efficientnet import FoldedConvolution, FoldedEfficientNet


@pytest.fixture(scope="module")
def network() -> Any:
    built = EfficientNet.from_name("efficientnet-lite0")
    built.load_state_dict(torch.load(efficientnet_weights(), map_location="cpu", weights_only=True))
    return built.eval()


@pytest.mark.parametrize("size_px", [64, 97, 128])
@torch.no_grad()
def test_it_computes_the_same(network: Any, size_px: int) -> None:
    pixels = torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    expected = network.extract_features(pixels)
    found = FoldedEfficientNet(network)(pixels)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")  # type: ignore[no-untyped-call]
@torch.no_grad()
def test_weights_lie_as_the_kernels_read_them(network: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """For one image and for eight; where oneDNN has to rearrange them, that takes longer than all the rest."""
    folded, some = FoldedEfficientNet(network), [torch.zeros(count, 3, 96, 96) for count in (1, 8)]
    for pixels in some:
        folded(pixels)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):  # type: ignore[no-untyped-call]
        for pixels in some:
            folded(pixels)
    done = [line.split(",") for line in capfd.readouterr().out.splitlines() if ",primitive,exec," in line]
    assert sum("convolution" in step for step in done) == 2 * 49
    of_weights = [step for step in done if not step[-2].startswith(("1x", "8x"))]  # shapes of images begin so
    assert not [step for step in of_weights if "reorder" in step]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@torch.no_grad()
def test_a_convolution_without_onednn_is_the_same(clip: bool, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with other padding before than behind, and after its weights have changed."""
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 8, 3, stride=2, groups=groups, bias=False).eval()
    plain.static_padding = nn.ZeroPad2d((0, 1, 0, 1))
    norm = nn.BatchNorm2d(8).eval()
    norm.running_mean, norm.running_var = torch.randn(8), torch.rand(8) + 0.5
    folded = FoldedConvolution(plain, norm, clip=clip)
    x = 4 * torch.randn(3, 4, 10, 10)
    expected = norm(plain(plain.static_padding(x)))
    fast = folded(x)
    torch.testing.assert_close(fast, expected.clamp(0, 6) if clip else expected)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.testing.assert_close(folded(x), fast)
    monkeypatch.undo()
    folded._apply(lambda tensor: 2 * tensor)
    assert not torch.allclose(folded(x), fast)


def test_nothing_of_it_trains(network: Any) -> None:
    assert not any(parameter.requires_grad for parameter in FoldedEfficientNet(network).parameters())
