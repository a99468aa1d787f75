"""What actions take: small rounds by hand, on links of round numbers.

All nodes of a cell stand within 1 m, so that a link's gain is that of 1 m: -104 dB. Over noise of -174 dBm/Hz that is
q = P * 10^-10.4 / 10^-20.4 = P * 10^10 Hz/W. Bands have 1 MHz: phones send with 0.3 mW, an SNR of 3 and 2 Mbit/s;
watches with 1.5 mW, 15 and 4 Mbit/s; fog nodes with 0.7 mW, 7 and 3 Mbit/s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from fogtune import preset
from fogtune.platform.config import Network
from fogtune.platform.network.actions import Action, Cost, Script
from fogtune.platform.network.model import NetworkModel
from fogtune.platform.run.record import Kind
from fogtune.platform.topology_build import build_tree

SPEED = 299_792_458.0
NEAR = ("network.placement.radius_m=0.1", "network.placement.spread_m=0.1")
ROUND = (
    'network.channel={"kind": "log-distance", "reference_loss_db": 104, "shadowing_db": 0}',
    'network.radio={"uplink_hz": 1e6, "downlink_hz": 1e6, "transmit_w": 7e-4, "noise_figure_db": 0, "fading": "none"}',
    'network.backhaul={"bits_per_s": 8e6, "delay_s": 0.5, "power_w": 3}',
    'network.classes.phone={"processor": {"kind": "power", "flops_per_s": 100, "power_w": 4}, '
    '"speed_spread": 0, "transmit_w": 3e-4, "receive_w": 0.1}',
    'network.classes.watch={"processor": {"kind": "frequency-scaled", "frequency_hz": 10, "flops_per_cycle": 5, '
    '"kappa": 0.001}, "speed_spread": 0, "transmit_w": 15e-4, "receive_w": 0.2}',
    "devices.0.device_class=watch",
    "devices.1.device_class=phone",
    "devices.2.device_class=phone",
)
MEGABIT = 125_000  # bytes


def build(*overrides: str) -> NetworkModel:
    """Of the preset `smoke`: `fog-0` has watch-0, watch-2 and reader-1, `fog-1` watch-1, reader-0 and coach-0; the
    reader and the coach have phones."""
    config = preset("smoke", *NEAR, *ROUND, *overrides)
    return NetworkModel(config, config.network or Network(), build_tree(config))


def send(kind: Kind, source: str, *targets: str, megabits: int, after: tuple[int, ...] = (), home: str = "") -> Action:
    modules = {"head/topic": MEGABIT, "adapter/fusion": (megabits - 1) * MEGABIT}
    return Action(kind, source, targets, modules, home or source, after)


def compute(device: str, flops: float, after: tuple[int, ...] = (), home: str = "") -> Action:
    return Action("compute", device, (device,), {}, home or device, after, flops)


def costs(
    *actions: Action, model: NetworkModel | None = None, ready_s: Mapping[str, float] | None = None
) -> list[Cost]:
    return (model or build()).costs(1, Script(list(actions)), ready_s or {})


def ends_s(*actions: Action, model: NetworkModel | None = None) -> list[float]:
    return [cost.end_s for cost in costs(*actions, model=model)]


def test_a_processor_of_constant_power() -> None:
    # 200 operations at 100 a second, with 4 W.
    assert costs(compute("reader-0", 200)) == [Cost(0, 2, sender_j=8, receiver_j={"reader-0": 0})]


def test_a_processor_whose_energy_goes_with_the_square_of_its_clock() -> None:
    # 200 operations are 40 cycles: 4 s at 10 Hz, each of kappa f^2 = 0.001 * 10^2 = 0.1 J.
    (cost,) = costs(compute("watch-0", 200))
    assert (cost.seconds, cost.sender_j) == pytest.approx((4, 4))
    (fast,) = costs(compute("watch-0", 200), model=build("network.classes.watch.processor.frequency_hz=20"))
    assert (fast.seconds, fast.sender_j) == pytest.approx((2, 16))


def test_no_two_devices_are_alike() -> None:
    model = build(*(f"network.classes.{name}.speed_spread=0.25" for name in ("watch", "phone")), "devices.0.count=400")
    taken = costs(*(compute(f"watch-{i}", 200) for i in range(400)), compute("reader-0", 200), model=model)
    speeds = np.array([4 / cost.seconds for cost in taken[:400]])
    # Lognormal around 1: standard errors are 0.25 / sqrt(400) = 0.0125 of the mean, 0.009 of the deviation.
    assert (np.log(speeds).mean(), np.log(speeds).std()) == pytest.approx((0, 0.25), abs=0.04)
    assert len(set(speeds)) == 400
    # A faster clock takes more energy a cycle; constant power takes less energy the faster it is.
    assert [cost.sender_j for cost in taken[:400]] == pytest.approx(4 * speeds**2)
    assert taken[400].sender_j == pytest.approx(4 * taken[400].seconds) != pytest.approx(8)
    assert model.compute_s("watch-7", 200) == taken[7].seconds
    assert build("network.classes.watch.speed_spread=0.25", "seed=1").compute_s("watch-0", 200) != taken[0].seconds


def test_an_uplink_by_itself() -> None:
    # 6 Mbit at 2 and at 4 Mbit/s; each in its cell's band. The access node's receiver is not counted.
    phone, watch = costs(
        send("uplink", "reader-0", "fog-1", megabits=6), send("uplink", "watch-0", "fog-0", megabits=6)
    )
    assert (phone.seconds, phone.sender_j) == pytest.approx((3, 3 * 3e-4))
    assert (watch.seconds, watch.sender_j) == pytest.approx((1.5, 1.5 * 15e-4))
    assert phone.receiver_j == {"fog-1": 0}


def test_devices_of_a_cell_share_its_uplink() -> None:
    # 0.5 MHz each: SNRs of 6, 0.5 log2(1 + 6) = 1.4037 Mbit/s each, until the first has sent 1.4037 of 1.4037 Mbit.
    # The second's other 2 Mbit then take a second at 2 Mbit/s. A sender has its whole power on all the time.
    half = 0.5 * math.log2(7)
    size = {"head/topic": round(1e6 * half / 8)}
    more = {"head/topic": round(1e6 * (half + 2) / 8)}
    some = (
        Action("uplink", "reader-0", ("fog-1",), size, "fog-1"),
        Action("uplink", "coach-0", ("fog-1",), more, "fog-1"),
        send("uplink", "reader-1", "fog-0", megabits=2),
    )
    one, other, elsewhere = costs(*some)
    assert [one.seconds, other.seconds, elsewhere.seconds] == pytest.approx([1, 2, 1], rel=1e-5)
    assert other.sender_j == pytest.approx(2 * 3e-4, rel=1e-5)


def test_an_uplink_is_split_by_the_configured_rule() -> None:
    pair = send("uplink", "watch-1", "fog-1", megabits=20), send("uplink", "coach-0", "fog-1", megabits=2)
    rules = "equal", "proportional-fair", "min-max-latency"
    (watch_s, phone_s), fair_s, (last_s, at_once_s) = (
        ends_s(*pair, model=build(f"network.radio.split={rule}")) for rule in rules
    )
    # The watch has ten times as much to send, so under equal shares the phone is done long before it.
    assert phone_s < watch_s / 2
    assert last_s == pytest.approx(at_once_s)
    assert last_s < watch_s
    # To the badly heard phone more band is worth less: of two in 1 MHz with q of 3 and 15 MHz, the phone gets less.
    assert fair_s[1] > phone_s * 1.001


def test_uplink_and_downlink_of_a_cell_do_not_share() -> None:
    pair = send("uplink", "reader-0", "fog-1", megabits=6), send("downlink", "fog-1", "coach-0", megabits=6)
    assert ends_s(*pair) == pytest.approx([3, 2])
    # Two downlinks of a cell do: 0.5 MHz at an SNR of 14 each, 0.5 log2(15) Mbit/s. One of another cell does not.
    ways = ("fog-1", "coach-0"), ("fog-1", "reader-0"), ("fog-0", "reader-1")
    twice_s = 12 / math.log2(15)
    assert ends_s(*(send("downlink", *way, megabits=6) for way in ways)) == pytest.approx([twice_s, twice_s, 2])


def test_a_broadcast_takes_the_senders_power_once_and_each_receivers() -> None:
    (cost,) = costs(send("downlink", "fog-1", "watch-1", "coach-0", megabits=6))  # 3 Mbit/s
    assert (cost.seconds, cost.sender_j) == pytest.approx((2, 2 * 7e-4))
    assert cost.receiver_j == pytest.approx({"watch-1": 2 * 0.2, "coach-0": 2 * 0.1})


FAR = ("network.placement.radius_m=400", "network.placement.spread_m=300", "network.channel.reference_loss_db=null")


def test_a_broadcast_goes_at_the_rate_of_the_worst_receiver() -> None:
    model = build(*FAR, "network.radio.transmit_w=0.5", "network.radio.carrier_hz=2e9")
    devices = ("watch-1", "reader-0", "coach-0")
    expected_s = []
    for device in devices:  # Friis at 1 m, then the distance cubed
        gain = (SPEED / (4 * math.pi * 2e9)) ** 2 / model.sites.distance_m("fog-1", device) ** 3
        expected_s.append(6 / math.log2(1 + 0.5 * gain / (10**-20.4 * 1e6)))
    single_s = [ends_s(send("downlink", "fog-1", d, megabits=6), model=model)[0] for d in devices]
    assert single_s == pytest.approx(expected_s)
    assert len({round(seconds, 3) for seconds in single_s}) == 3
    for order in (devices, devices[::-1]):
        assert ends_s(send("downlink", "fog-1", *order, megabits=6), model=model) == pytest.approx([max(expected_s)])


def test_a_wire_delays_and_then_carries() -> None:
    # 0.5 s and 8 Mbit at 8 Mbit/s, with 3 W at both ends together.
    (cost,) = costs(send("backhaul", "fog-0", "cloud", megabits=8))
    assert (cost.start_s, cost.seconds, cost.sender_j) == pytest.approx((0, 1.5, 4.5))
    assert cost.receiver_j == {"cloud": 0}


def test_wires_are_shared_in_one_direction_by_one_node() -> None:
    up, down = send("backhaul", "fog-0", "cloud", megabits=8), send("backhaul", "cloud", "fog-0", megabits=8)
    others = send("backhaul", "fog-1", "cloud", megabits=8), send("backhaul", "cloud", "fog-1", megabits=8)
    assert ends_s(up, down, *others) == pytest.approx([1.5] * 4)
    assert ends_s(up, up, down, *others) == pytest.approx([2.5, 2.5, 1.5, 1.5, 1.5])
    assert ends_s(up, down, down, *others) == pytest.approx([1.5, 2.5, 2.5, 1.5, 1.5])


def test_an_access_point_has_a_wire_of_its_own() -> None:
    star = build("topology.tiers=[]", "network.placement.access_points=2")
    assert star.sites.access["reader-0"] == "ap-1"
    way = send("uplink", "reader-0", "ap-1", megabits=6), send("backhaul", "ap-1", "cloud", megabits=8, after=(0,))
    up, down = (send("backhaul", *pair, megabits=8) for pair in (("ap-0", "cloud"), ("cloud", "ap-1")))
    assert ends_s(*way, down, up, model=star) == pytest.approx([3, 4.5, 1.5, 1.5])
    # All at once: each of the two up is on a wire of its own, two down to one point are not.
    both = send("backhaul", "ap-1", "cloud", megabits=8)
    assert ends_s(both, up, down, down, model=star) == pytest.approx([1.5, 1.5, 2.5, 2.5])


def test_a_round_begins_when_its_node_and_its_devices_are_ready() -> None:
    script = (
        send("downlink", "fog-1", "reader-0", megabits=6),  # 2 s
        compute("reader-0", 200, after=(0,), home="fog-1"),  # 2 s
        send("uplink", "reader-0", "fog-1", megabits=6, after=(1,), home="fog-1"),  # 3 s
        send("backhaul", "fog-1", "cloud", megabits=8, after=(2,)),  # 1.5 s
        compute("watch-0", 50, home="fog-0"),  # 1 s
        compute("coach-0", 100, after=(4,), home="fog-1"),  # 1 s
        send("backhaul", "cloud", "fog-1", megabits=8, home="fog-1"),  # 1.5 s
    )
    taken = costs(*script, ready_s={"fog-1": 10, "reader-0": 11, "cloud": 99})
    assert [cost.start_s for cost in taken] == pytest.approx([11, 13, 15, 18, 0, 10, 10])
    assert [cost.end_s for cost in taken] == pytest.approx([13, 15, 18, 19.5, 1, 11, 11.5])


def test_links_between_devices_have_a_band_of_their_cell() -> None:
    model = build('network.d2d={"band_hz": 1e6}')
    pair = send("d2d", "reader-0", "watch-1", megabits=6), send("uplink", "coach-0", "fog-1", megabits=6)
    beside, up = costs(*pair, model=model)
    assert (beside.seconds, up.seconds) == pytest.approx((3, 3))
    assert beside.sender_j == pytest.approx(3 * 3e-4)
    assert beside.receiver_j == pytest.approx({"watch-1": 3 * 0.2})
    # Another of the same cell takes half of the band, one of the other cell takes nothing.
    away = send("d2d", "reader-1", "watch-0", megabits=6)
    back = send("d2d", "coach-0", "reader-0", megabits=6)
    half_s = 6 / (0.5 * math.log2(7))
    assert ends_s(pair[0], back, away, model=model) == pytest.approx([half_s, half_s, 3])


def test_each_kind_of_link_has_a_band_of_its_own_width() -> None:
    # In 7 and 3 MHz the SNRs of a fog node and of a phone are 1: 7 and 3 Mbit/s; in 1 MHz the phone's is 3: 2 Mbit/s.
    model = build("network.radio.downlink_hz=7e6", "network.d2d.band_hz=3e6")
    links = ("fog-1", "reader-0"), ("reader-0", "coach-0"), ("reader-0", "fog-1")
    assert [model.rate_bits_per_s(1, *link) for link in links] == pytest.approx([7e6, 3e6, 2e6])
    kinds: tuple[Kind, ...] = "downlink", "d2d", "uplink"
    actions = [send(kind, *link, megabits=42) for kind, link in zip(kinds, links, strict=True)]
    assert ends_s(*actions, model=model) == pytest.approx([6, 14, 21])


def test_a_link_below_the_least_ratio_carries_nothing() -> None:
    # An SNR of 3 is 4.77 dB.
    assert build("network.radio.least_snr_db=4.7").rate_bits_per_s(1, "reader-0", "fog-1") == pytest.approx(2e6)
    assert build("network.radio.least_snr_db=4.8").rate_bits_per_s(1, "reader-0", "fog-1") == 0


def test_a_link_is_drawn_anew_each_round() -> None:
    model, script = build("network.radio.fading=rayleigh"), Script([send("uplink", "reader-0", "fog-1", megabits=6)])
    seconds = [model.costs(number, script, {})[0].seconds for number in (1, 1, 2)]
    rates = [model.rate_bits_per_s(number, "reader-0", "fog-1") for number in (1, 1, 2)]
    assert seconds[0] == seconds[1] != seconds[2]
    assert seconds == pytest.approx([6e6 / rate for rate in rates])


def test_attempts_are_drawn_until_all_have_it() -> None:
    def drawn(loss: float, *targets: str) -> list[int]:
        model, action = build(f"network.radio.loss={loss}"), send("downlink", "fog-1", *targets, megabits=2)
        return [model.attempts(number, action) for number in range(2000)]

    assert set(drawn(0, "reader-0")) == {1}
    # The first attempt reaches one target in half of the rounds, both in a quarter of them.
    assert drawn(0.5, "reader-0").count(1) == pytest.approx(1000, abs=100)
    assert drawn(0.5, "reader-0").count(2) == pytest.approx(500, abs=100)
    assert drawn(0.5, "reader-0", "watch-1").count(1) == pytest.approx(500, abs=100)
    assert drawn(0.5, "reader-0", "watch-1") == drawn(0.5, "watch-1", "reader-0")
