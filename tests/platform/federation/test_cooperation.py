"""Neighbours average what they keep: who with whom, on one host or several, and what it costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fogtune.platform.config import Config
from fogtune.platform.config.check import check
from fogtune.platform.errors import InputError
from fogtune.platform.federation.cooperation import Cooperation, Disagreement, average, cooperation
from fogtune.platform.federation.local_runner import LocalRunner
from fogtune.platform.federation.messages import DeviceReport
from fogtune.platform.ownership import own
from fogtune.platform.topology_build import build_tree

MakeConfig = Callable[..., Config]
ALONE = "network={placement: {spread_m: 20}, radio: {least_snr_db: -40}}"
NEAR = "network.d2d={gossip_steps: 2, range_m: 1000}"
SELDOM = "federation.cadence={device: 2, fog: 2}"


def report(device: str, *kept: str, error: str | None = None) -> DeviceReport:
    return DeviceReport(device, error, kept=kept)


def test_who_keeps_a_module_averages_it_with_neighbours_who_keep_it(tiny: MakeConfig) -> None:
    config = tiny()
    ownership = own(config, build_tree(config))
    links = [("a", "b"), ("b", "c"), ("c", "d")]
    reports = [
        report("a", "head/topic"),
        report("b", "encoder/imu", "head/topic", "statistics/imu"),
        report("c", "encoder/imu", "statistics/imu"),
        report("d", "head/topic"),  # c, which keeps no head, connects it to nobody
    ]
    found = cooperation(ownership, links, 2, reports)
    assert dict(found.groups) == {"head/topic": ("a", "b"), "encoder/imu": ("b", "c")}
    assert found.shared == {
        "a": {"head/topic": ("b",)},
        "b": {"head/topic": ("a",), "encoder/imu": ("c",)},
        "c": {"encoder/imu": ("b",)},
    }


def test_personal_modules_stay_personal(tiny: MakeConfig) -> None:
    config = tiny('federation.modules=[{"match": "head/*", "scope": "device"}]')
    ownership = own(config, build_tree(config))
    reports = [report("a", "head/topic"), report("b", "head/topic")]
    assert cooperation(ownership, [("a", "b")], 1, reports) == Cooperation((("a", "b"),), (), 1)


def test_two_hosts_average_as_one_does() -> None:
    found = Cooperation((("a", "b"), ("b", "c")), (("head/x", ("a", "b", "c")),), steps=1)
    values = {("head/x", d): {"w": torch.tensor([v])} for d, v in (("a", 0.0), ("b", 3.0), ("c", 9.0))}
    together, told = average(found, values, ("a", "b", "c"))
    # Metropolis on the path: 1/3 a link. a = 2/3 * 0 + 1/3 * 3, b = (0 + 3 + 9) / 3, c = 2/3 * 9 + 1/3 * 3
    assert [float(together["head/x", d]["w"]) for d in "abc"] == pytest.approx([1.0, 4.0, 7.0])
    # Distances from the mean of 4: 16 + 1 + 25 before, 9 + 0 + 9 after; the eigenvalues are 1, 2/3 and 0.
    assert (told["head/x", "a"].before, told["head/x", "a"].after) == pytest.approx((42.0, 18.0))
    assert told["head/x", "a"].bound == pytest.approx(42 * 4 / 9)
    first, told_first = average(found, values, ("a",))
    rest, told_rest = average(found, values, ("b", "c"))
    assert {**first, **rest}.keys() == together.keys()
    assert all(torch.equal({**first, **rest}[key]["w"], together[key]["w"]) for key in together)
    assert (list(told_first), list(told_rest)) == ([("head/x", "a")], [])


def test_disagreement_adds_up_alike_in_every_order() -> None:
    parts = {("m", d): Disagreement(v, v, v) for d, v in (("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 1e16))}
    backwards = dict(reversed(parts.items()))
    assert Disagreement.total(parts) == Disagreement.total(backwards) == {"m": Disagreement(*[1e16 + 0.6] * 3)}


def test_a_round_of_gossip_contracts_and_keeps_the_average(tiny: MakeConfig) -> None:
    kept = {}
    for name, config in (("alone", tiny(SELDOM, ALONE)), ("together", tiny(SELDOM, ALONE, NEAR))):
        runner = LocalRunner(config)
        result = runner.round(1)
        kept[name] = {device: dict(state.kept) for device, state in runner.snapshot().devices.items()}
        runner.close()
    owners = [device for device in kept["alone"] if "adapter/fusion" in kept["alone"][device]]
    assert len(owners) > 2
    for tensor in kept["alone"][owners[0]]["adapter/fusion"]:
        means = [torch.stack([kept[name][d]["adapter/fusion"][tensor] for d in owners]).mean(0) for name in kept]
        torch.testing.assert_close(means[0], means[1], atol=1e-6, rtol=1e-5)
    told = result.record.disagreement
    assert told["adapter/fusion"]["before"] > 0
    assert all(some["after"] <= some["bound"] + 1e-9 * some["before"] for some in told.values())
    sent = [row for row in result.rows if row.kind == "d2d"]
    assert sum(row.bytes for row in sent) == result.record.bytes["d2d"] > 0
    assert {row.module for row in sent} == set(told)
    trained_s = {row.source: row.start_s + row.seconds for row in result.rows if row.kind == "compute"}  # type: ignore[operator]
    assert all(row.start_s >= trained_s[row.source] for row in sent)  # type: ignore[operator]


def test_gossip_without_anything_to_keep_is_refused(tiny: MakeConfig) -> None:
    with pytest.raises(InputError, match=r"^network\.d2d\.gossip_steps: 2 given, but devices send up every round"):
        check(tiny(ALONE, NEAR))
