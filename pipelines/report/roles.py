"""Which devices served others, and how: read from the ledger's radio links, in batches.

A cluster head hears from a device that was decided to be headed, and sends what it adds up straight to its access node.
A relay passes on what travels over several hops: on such ways it hears from another than it sends to, while the device
at a way's end has to do with one other alone, whether its update goes up or its modules come down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fogtune.pipelines.spending import ledger, reduced
from fogtune.platform.run.directory import RunDirectory

if TYPE_CHECKING:
    import pyarrow as pa

HEAD, RELAY = "cluster head", "relay"


def roles(run: RunDirectory, devices: Sequence[str]) -> dict[str, dict[str, int]]:
    """Device -> role -> rounds in which it had that role; `devices` are all of the run.

    InputError if the ledger or the rounds are damaged.
    """
    import pyarrow.compute as pc

    how = {"gathers": "max", "uplink_hops": "max", "hears": "max", "tells": "max", "least": "min", "most": "max"}
    ends = reduced(_ends(run, devices), ("round", "node"), how)
    if ends is None:
        return {}
    head = pc.and_(pc.equal(ends["gathers"], 1), pc.equal(ends["uplink_hops"], 1))
    on_ways = pc.equal(pc.multiply(ends["hears"], ends["tells"]), 1)
    relay = pc.and_not(pc.and_(on_ways, pc.fill_null(pc.not_equal(ends["least"], ends["most"]), False)), head)
    found: dict[str, dict[str, int]] = {}
    for role, rows in ((HEAD, head), (RELAY, relay)):
        for counted in pc.value_counts(ends["node"].filter(rows)).to_pylist():
            found.setdefault(counted["values"], {})[role] = counted["counts"]
    return found


def _ends(run: RunDirectory, devices: Sequence[str]) -> Iterator[pa.Table]:
    """A row for each end of what arrived over uplinks and D2D.

    `gathers`: it hears from a headed device. `uplink_hops`: of what it sends to its access node, else 0. Of ways of
    several hops: `hears`, `tells`, and with whom, by number, as `least` and `most`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = pa.array(devices, pa.string())
    beyond = len(devices)  # access points, and whoever is no device; a device has to do with one of them alone
    row = {device: index for index, device in enumerate(devices)}
    headed = pa.array(
        [
            record.round * (beyond + 1) + row[decision["about"]]
            for record in run.records()
            for decision in record.decisions
            if decision["what"] == "is headed" and decision.get("about") in row
        ],
        pa.int64(),
    )

    for table in ledger(run):
        sent = table.filter(pc.and_not(pc.is_in(table["kind"], pa.array(["uplink", "d2d"])), table["lost"]))
        heard = sent.filter(pc.equal(sent["kind"], "d2d"))
        for rows, node, other in ((sent, "source", "target"), (heard, "target", "source")):
            far = pc.greater(rows["hops"], 1)
            number = pc.cast(pc.fill_null(pc.index_in(rows[other], names), beyond), pa.int64())
            partner = pc.if_else(far, number, None)
            key = pc.add(pc.multiply(pc.cast(rows["round"], pa.int64()), beyond + 1), number)
            tells = node == "source"
            yield pa.table(
                {
                    "round": rows["round"],
                    "node": rows[node],
                    "gathers": pa.repeat(0, len(rows)) if tells else pc.cast(pc.is_in(key, headed), pa.int64()),
                    "uplink_hops": pc.cast(pc.if_else(pc.equal(rows["kind"], "uplink"), rows["hops"], 0), pa.int64()),
                    "hears": pc.cast(pc.and_(far, not tells), pa.int64()),
                    "tells": pc.cast(pc.and_(far, tells), pa.int64()),
                    "least": partner,
                    "most": partner,
                }
            )
