"""The HF-FM paper's own nodes and links under a federation of 10 lowest-tier nodes with 4 devices each.

With it a federation meets the very channel of the paper's table (`hf_fm_channel`), noise of kHz instead of Hz included;
everything else, such as who shares a band and what an update weighs, is the federation's own.
"""

from __future__ import annotations

from collections.abc import Mapping

from fogtune.platform.errors import InputError
from fogtune.platform.placement import Point
from fogtune.platform.topology import CLOUD

from .band import Floats, shannon
from .hf_fm_channel import CLUSTERS, SIDE_M, USERS, draw_links, gain

_KILO = 1e3  # kHz where the noise density asks for Hz: the noise is so many times too small

Cells = Mapping[str, tuple[str, ...]]
"""Access node -> its devices."""


class FromPaper:
    """Gains of the paper's links; its one draw of the fading holds for all rounds."""

    def __init__(self, cells: Cells) -> None:
        links = draw_links()
        up = gain(links.uplink_m, links.uplink_fading)
        d2d = gain(links.d2d_m, links.d2d_fading)
        self._gains: dict[tuple[str, str], float] = {}
        for i, (access, devices) in enumerate(cells.items()):
            for j, device in enumerate(devices):
                self._gains[device, access] = self._gains[access, device] = float(up[i, j]) * _KILO
                for k, other in enumerate(devices):
                    self._gains[device, other] = float(d2d[i, j, k]) * _KILO

    def gain(self, round_number: int, sender: str, receiver: str) -> float:
        """Received over sent power; of links that the paper has."""
        return self._gains[sender, receiver]

    def efficiency(self, snr: Floats) -> Floats:
        """Shannon's."""
        return shannon(snr)


def paper_positions(cells: Cells) -> dict[str, Point]:
    """Where the paper's code places edge servers and users; the cloud, which has no place there, is in the middle.

    Raises:
        InputError: the federation has not the paper's shape.
    """
    if [len(devices) for devices in cells.values()] != [USERS] * CLUSTERS:
        shape = ", ".join(str(len(devices)) for devices in cells.values())
        problem = f"'paper' has {CLUSTERS} cells of {USERS} devices, this federation cells of {shape}"
        raise InputError("network.channel.kind", f"{problem}; allowed: log-distance, tr38901")
    links = draw_links()
    positions = {CLOUD: (SIDE_M / 2, SIDE_M / 2)}
    for i, (access, devices) in enumerate(cells.items()):
        positions |= {
            node: (float(x_m), float(y_m)) for node, (x_m, y_m) in zip(devices, links.users_m[i], strict=True)
        } | {access: (float(links.servers_m[i, 0]), float(links.servers_m[i, 1]))}
    return positions
