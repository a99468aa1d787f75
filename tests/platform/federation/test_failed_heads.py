"""Cluster heads that fail: what becomes of the updates that they were to add up, and of the work they were to do."""

from __future__ import annotations

import pytest
import torch

from fogtune import preset
from fogtune.platform.errors import RunFailed
from fogtune.platform.federation.accounting import Accountant
from fogtune.platform.federation.cooperation import Cooperation
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.messages import DeviceOrder, DeviceReport, RoundPlan, Setup
from fogtune.platform.modules import module_names

HEAD = "head/topic"
READERS = (
    "topology.tiers.0.count=1",
    'devices=[{"name": "reader", "count": 4, "modalities": ["text"], "tasks": ["topic"]}]',
    "model.encoders={}",
    'tasks={"topic": {"source": "news", "inputs": ["text"], "label": "topic"}}',
    'sources={"news": {"kind": "embedded", "asset": "bbc-news"}}',
)


def coordinate(*overrides: str) -> Coordinator:
    """Four readers under one fog node."""
    config = preset("smoke", *READERS, *overrides)
    initial = {module: {"weight": torch.zeros(1)} for module in module_names(config)}
    return Coordinator(config, Setup(initial, {"topic": 1}, {}, None))


class TestFailedHeads:
    """Readers 1 and 2 send to reader 0, reader 3 goes up by itself."""

    ORDERS = tuple(
        DeviceOrder(f"reader-{i}", (HEAD,), (), (), (HEAD,), head=head)
        for i, head in enumerate(("reader-0", "reader-0", "reader-0", None))
    )
    PLAN = RoundPlan(1, ORDERS, personal=False, evaluate=False)

    def heard(self, **errors: str) -> dict[str, str | None]:
        reports = [
            DeviceReport(order.device, errors.get(order.device.replace("-", "_")), sent=(HEAD,))
            for order in self.ORDERS
        ]
        return {report.device: report.error for report in coordinate().heard(self.PLAN, reports)}

    def test_with_a_head_its_members_updates_are_lost(self) -> None:
        assert self.heard(reader_0="its host died") == {
            "reader-0": "its host died",
            "reader-1": "its head reader-0 failed",
            "reader-2": "its head reader-0 failed",
            "reader-3": None,
        }

    def test_a_member_that_failed_keeps_its_own_cause(self) -> None:
        assert self.heard(reader_0="its host died", reader_2="update rejected")["reader-2"] == "update rejected"

    def test_a_member_takes_nobody_with_it(self) -> None:
        failed = {"reader-2": "update rejected", "reader-3": "its host died"}
        assert self.heard(reader_2="update rejected", reader_3="its host died") == {
            f"reader-{i}": failed.get(f"reader-{i}") for i in range(4)
        }

    def test_the_quorum_counts_them_as_lost(self) -> None:
        coordinator = coordinate("federation.quorum=0.5")
        reports = [DeviceReport(o.device, None, sent=(HEAD,)) for o in self.ORDERS[1:]]
        reports.append(DeviceReport("reader-0", "its host died"))
        with pytest.raises(RunFailed) as failed:
            coordinator.admit(self.PLAN, coordinator.heard(self.PLAN, reports))
        assert str(failed.value) == (
            "round 1: 1 of 4 updates arrived, below federation.quorum 0.5; "
            "reader-0: its host died; reader-1, reader-2: its head reader-0 failed"
        )

    def test_nothing_goes_up_from_a_head_that_failed(self) -> None:
        coordinator = coordinate()
        reports = [DeviceReport(o.device, None, sent=(HEAD,)) for o in self.ORDERS]
        reports[0] = DeviceReport("reader-0", "its host died")
        heard = coordinator.heard(self.PLAN, reports)
        rows = Accountant(coordinator).book(self.PLAN, heard, {}, {}, Cooperation()).rows
        assert {row.source for row in rows if row.kind == "uplink"} == {"reader-3"}
