"""The seven methods of the HF-FM paper on FogTune's default federation, over the paper's network corrected; and one
with all that makes it cheaper.

Radio, placement and backhaul are the paper's (arXiv 2509.03695 and its code) in SI units; what it leaves out counts
too: computation, the downlink, and users of a cell that share its band. Its clusters are the default's four cells, its
users the default's 34 devices, with as many passes for every task; "+ D2D" is training with cluster heads. All see
larger images and a fifth more passes than the default, as when docs/pareto.md and docs/howto/reproduce-hf-fm.md were
measured.
"""

from __future__ import annotations

from collections.abc import Callable

from fogtune.platform.config import (
    D2D,
    Backhaul,
    Config,
    DeviceClass,
    Evaluation,
    ImageEncoder,
    LogDistance,
    Network,
    Placement,
    Quantise,
    Radio,
)

from .federations import default, edge_only, hierarchical_e2, hierarchical_e8, star

_UPLINK_W = 1.0


def corrected_network(d2d: D2D | None = None) -> Network:
    """The paper's network with units that agree with each other."""
    return Network(
        placement=Placement(side_m=5000, separation_m=500, radius_m=1000, spread_m=500),
        channel=LogDistance(exponent=3, reference_loss_db=30, shadowing_db=0),
        # 1 MHz for each of the 4 users of a cluster; here all devices of a cell share them.
        radio=Radio(uplink_hz=4e6, downlink_hz=4e6, noise_figure_db=0),
        backhaul=Backhaul(bits_per_s=4e6, delay_s=0.1, power_w=0.8),
        classes={name: _at_1_w(found) for name, found in Network().classes.items()},
        d2d=d2d,
    )


def paper_d2d() -> D2D:
    """The paper's links between users, over which each cluster elects a head."""
    return D2D(range_m=1000, band_hz=8e6, transmit_w=0.2, heads=True)


def _at_1_w(found: DeviceClass) -> DeviceClass:
    return found.model_copy(update={"transmit_w": _UPLINK_W})


def _method(base: Callable[[], Config], d2d: bool = False) -> Callable[[], Config]:
    def make() -> Config:
        config = _as_measured(base())
        return config.model_copy(
            update={
                "name": f"hf-fm-{config.name}{'-d2d' if d2d else ''}",
                "tasks": {name: task.model_copy(update={"epochs": None}) for name, task in config.tasks.items()},
                "network": corrected_network(paper_d2d() if d2d else None),
                "evaluation": Evaluation(every=2),
            }
        )

    return make


def _as_measured(config: Config) -> Config:
    """With the images and passes of the published tables, which have not followed the default since."""
    encoders = {**config.model.encoders, "image": ImageEncoder(size_px=128)}
    local = config.local.model_copy(update={"epochs": 1.2 * config.local.epochs})
    return config.model_copy(update={"model": config.model.model_copy(update={"encoders": encoders}), "local": local})


METHODS: dict[str, Callable[[], Config]] = {
    "star": _method(star),
    "edge-only": _method(edge_only),
    "edge-only-d2d": _method(edge_only, d2d=True),
    "hierarchical-e2": _method(hierarchical_e2),
    "hierarchical-e8": _method(hierarchical_e8),
    "hierarchical-e2-d2d": _method(hierarchical_e2, d2d=True),
    "hierarchical-e8-d2d": _method(hierarchical_e8, d2d=True),
}
"""Method, in the order of the paper's table -> its configuration."""


def pareto() -> Config:
    """The default, with its fewer passes for what is learned soon, over the same network, made cheap: changes of 4 bits
    up and down, cluster heads, devices that hand on what they have, ways of least energy."""
    config = _as_measured(default())
    d2d = paper_d2d().model_copy(update={"share": True})
    compressed = {"compression": (Quantise(kind="quantise", bits=4),), "compress_down": True}
    return config.model_copy(
        update={
            "name": "pareto",
            "rounds": 15,
            "network": corrected_network(d2d).model_copy(update={"energy_weight": 1.0}),
            "federation": config.federation.model_copy(update=compressed),
            "evaluation": Evaluation(every=1),
        }
    )
