"""The wireless network: where nodes stand, what links and devices can do, and what they take. SI units throughout."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Name, Section


class Placement(Section):
    """Where nodes stand if the topology does not place them itself."""

    side_m: float = Field(default=3000.0, gt=0)
    """Side of the square, metres; the cloud is at its centre."""
    separation_m: float = Field(default=800.0, ge=0)
    """Least distance between two nodes of one aggregating tier, metres."""
    radius_m: float = Field(default=400.0, gt=0)
    """The centre of a cell's devices lies in a disc of this radius around their access node, metres."""
    spread_m: float = Field(default=100.0, gt=0)
    """The devices of a cell stand in a disc of this radius around their centre, metres."""
    access_points: int = Field(default=4, ge=1)
    """Radio access points where devices are directly under the cloud: they forward, and add nothing up."""


class LogDistance(Section):
    """Path loss by distance to a power, with lognormal shadowing of each link."""

    kind: Literal["log-distance"] = "log-distance"
    """Log-distance."""
    exponent: float = Field(default=3.0, ge=1)
    """Power of the distance; 2 is free space."""
    reference_loss_db: float | None = Field(default=None, gt=0)
    """Loss at 1 m; null for that of free space at the carrier."""
    shadowing_db: float = Field(default=6.0, ge=0)
    """Standard deviation of the shadowing."""


class PaperChannel(Section):
    """The links of the HF-FM paper's code (arXiv 2509.03695): its placement, its one draw of the fading, its noise of
    kHz instead of Hz, whatever the network's own placement, carrier and fading are. For 10 lowest-tier nodes with 4
    devices each."""

    kind: Literal["paper"]
    """Paper."""


class ThreeGpp(Section):
    """3GPP TR 38.901 with its line of sight and shadowing, and the rates of 5G's modulation and coding schemes; needs
    `fogtune[tr38901]`."""

    kind: Literal["tr38901"]
    """TR 38.901."""
    scenario: Literal["umi", "uma", "inf"] = "umi"
    """Urban micro (street canyon), urban macro, indoor factory."""


Channel = Annotated[LogDistance | PaperChannel | ThreeGpp, Field(discriminator="kind")]


class Radio(Section):
    """A cell: each lowest-tier node (or access point) has bands of its own, which its devices share."""

    carrier_hz: float = Field(default=3.5e9, gt=0)
    """Carrier frequency."""
    uplink_hz: float = Field(default=10e6, gt=0)
    """Bandwidth of a cell's uplink."""
    downlink_hz: float = Field(default=10e6, gt=0)
    """Bandwidth of a cell's downlink."""
    transmit_w: float = Field(default=10.0, gt=0)
    """Power of an access node while it sends."""
    noise_figure_db: float = Field(default=7.0, ge=0)
    """What receivers add to thermal noise (-174 dBm/Hz)."""
    split: Literal["equal", "proportional-fair", "min-max-latency"] = "equal"
    """How devices that send at once share the band: evenly, for the largest sum of log rates, or so that all end at
    once."""
    fading: Literal["rayleigh", "none"] = "rayleigh"
    """Of each link, one draw a round (block fading)."""
    least_snr_db: float = Field(default=-10.0)
    """Below this signal-to-noise ratio over the whole band a link cannot be used."""
    loss: float = Field(default=0.0, ge=0, lt=1)
    """Chance that an update or a download does not come through and is sent again, each attempt drawn for itself."""
    attempts: int = Field(default=4, ge=1)
    """After so many attempts in vain an update is lost; if `federation.quorum` is 1, that fails the run."""


class Backhaul(Section):
    """The wire between a node and its parent; each node has one of its own."""

    bits_per_s: float = Field(default=50e6, gt=0)
    """Rate, shared evenly by what is under way at once in one direction."""
    delay_s: float = Field(default=0.02, ge=0)
    """Of each transfer."""
    power_w: float = Field(default=2.0, ge=0)
    """Of both ends together while they transfer."""


class Power(Section):
    """A processor that draws constant power while it computes."""

    kind: Literal["power"] = "power"
    """Constant power."""
    flops_per_s: float = Field(gt=0)
    """Sustained floating-point operations a second."""
    power_w: float = Field(gt=0)
    """While it trains."""


class FrequencyScaled(Section):
    """A processor whose energy a cycle is kappa f^2 (Burd and Brodersen, 1996; customary in edge learning)."""

    kind: Literal["frequency-scaled"]
    """kappa f^2."""
    frequency_hz: float = Field(gt=0)
    """Clock, f."""
    flops_per_cycle: float = Field(gt=0)
    """Floating-point operations a cycle."""
    kappa: float = Field(default=1e-28, gt=0)
    """Effective switched capacitance, J s^2."""


class DeviceClass(Section):
    """What devices of a class compute and send with."""

    processor: Annotated[Power | FrequencyScaled, Field(discriminator="kind")]
    """Its processor."""
    speed_spread: float = Field(default=0.25, ge=0)
    """Standard deviation of the log of the devices' speeds: no two are alike."""
    transmit_w: float = Field(default=0.2, gt=0)
    """Power while it sends; 0.2 W is 23 dBm."""
    receive_w: float = Field(default=0.1, ge=0)
    """Power while it receives."""
    battery_j: float | None = Field(default=None, gt=0)
    """Charge at the start; who has less left than a round takes sits it out. Null for the mains."""


def _class(flops_per_s: float, power_w: float, transmit_w: float = 0.2) -> DeviceClass:
    return DeviceClass(processor=Power(flops_per_s=flops_per_s, power_w=power_w), transmit_w=transmit_w)


class D2D(Section):
    """Links between devices of a cell, in a band of their own."""

    range_m: float = Field(default=150.0, gt=0)
    """Devices farther apart do not hear each other."""
    band_hz: float = Field(default=10e6, gt=0)
    """Bandwidth in a cell, shared by all its links between devices."""
    transmit_w: float | None = Field(default=None, gt=0)
    """Power of devices on these links; null for that of their class."""
    relay: bool = True
    """Updates and downloads go over other devices where that costs less, or where there is no other way."""
    share: bool = False
    """Devices get a module from another device that has it, where that costs less than from their access node. Needs
    `relay`."""
    gossip_steps: int = Field(default=0, ge=0)
    """Cooperative training: so many steps of consensus among neighbours, each round, on modules that they keep because
    the cadence of `device` does not send them up."""
    heads: bool = False
    """Devices that reach each other elect a head, which adds their updates up and sends the sum: where that costs less
    than each sending its own. Elected by cost and charge left; who has served often is elected less."""


class Network(Section):
    """What transfers and computations take: every one costs seconds and joules on a virtual clock."""

    placement: Placement = Placement()
    """Positions."""
    channel: Channel = LogDistance()
    """Path loss of radio links."""
    radio: Radio = Radio()
    """Cells."""
    backhaul: Backhaul = Backhaul()
    """Wires."""
    classes: dict[Name, DeviceClass] = Field(
        default_factory=lambda: {
            # Assumed, not measured: mobile GPUs at a tenth to a third of their peak, 20 to 40 GFLOP a joule.
            "phone": _class(200e9, 5.0),
            "watch": _class(10e9, 0.5, transmit_w=0.1),
            "camera": _class(200e9, 8.0),
            "gateway": _class(500e9, 20.0),
        }
    )
    """Device class -> what its devices can do; a device group names its class."""
    d2d: D2D | None = None
    """Device to device; null for none."""
    energy_weight: float = Field(default=0.0, ge=0, le=1)
    """w: routes and heads have the least (1 - w) seconds + w joules of airtime."""
    deadline_s: float | None = Field(default=None, gt=0)
    """A device whose update would come later than this, counted from where its node begins the round, sits the round
    out (FedCS: Nishio and Yonetani, arXiv 1804.08333); null for waiting for all."""
