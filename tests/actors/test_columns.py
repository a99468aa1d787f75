"""Named tuples by column come out as they went in."""

from __future__ import annotations

import math
import pickle

import pytest

from fogtune.actors.columns import ByColumn
from fogtune.platform.federation.messages import DeviceOrder, DeviceReport

ORDERS = [DeviceOrder(f"watch-{i}", ("head/exercise",), (), ("head/exercise",), (), behind={"a": i}) for i in range(9)]
REPORTS = [DeviceReport("a", None, sent=("head/x",), loss=0.5), DeviceReport("b", "no: it failed", failure="link")]


@pytest.mark.parametrize("rows", [ORDERS, REPORTS, REPORTS[:1], []], ids=["orders", "reports", "one", "none"])
def test_what_comes_out_went_in(rows: list[DeviceOrder | DeviceReport]) -> None:
    found = pickle.loads(pickle.dumps(ByColumn(rows)))
    assert (type(found), [*found]) == (tuple, rows)
    assert [type(row) for row in found] == [type(row) for row in rows]
    assert all(row.until_s == math.inf for row in found if isinstance(row, DeviceOrder))
