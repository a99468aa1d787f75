"""What a device remembers from round to round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fogtune.platform.aggregation import Tensors


class DeviceState(NamedTuple):
    """Its own of what no other node has; everything else comes with an order and leaves with its reply."""

    kept: Mapping[str, Tensors] = {}
    """Module -> its own version: personal modules, and those trained but not yet sent."""
    controls: Mapping[str, Tensors] = {}
    """Module -> SCAFFOLD's control variates."""
    experts: tuple[int, ...] = ()
    """Experts held when it last trained."""
    residuals: Mapping[str, Tensors] = {}
    """Module -> what compression has left out so far."""
    started: Mapping[str, Tensors] = {}
    """Module -> the version that it has begun with, if its update comes in a later round."""


States = Mapping[str, DeviceState]
"""Device -> what it remembers; without those that remember nothing."""

NOTHING = DeviceState()
"""Of a device that has not trained yet."""
