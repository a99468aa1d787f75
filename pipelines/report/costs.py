"""Where a network's time and energy went: bars a round, a table by kind, and what was decided because of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fogtune.pipelines import readable
from fogtune.pipelines.spending import Spent, by_kind, spent
from fogtune.platform.run.directory import RunDirectory
from fogtune.platform.run.record import RoundRecord

from .figures import Figure, kind_colour, stacked
from .page import card, cards, escape, panel, table

_OVERLAP = (
    "Rows of the ledger, added up. They run side by side, and a broadcast counts for each of its receivers: busy "
    "seconds may add up to more than the virtual time that passed."
)


def costs(run: RunDirectory, records: Sequence[RoundRecord], figures: list[Figure]) -> str:
    """The section's cards; its figures are added to `figures`. Empty for a run without a network."""
    kinds = {kind: sums for kind, sums in by_kind(run).items() if sums.joules is not None}
    if not kinds:
        return ""
    rounds = spent(run, "round", "kind")
    nothing = Spent(0, 0, 0.0, 0.0)
    each = {kind: [rounds.get((record.round, kind), nothing) for record in records] for kind in kinds}
    joules = {kind: [sums.joules or 0.0 for sums in column] for kind, column in each.items()}
    seconds = {kind: [sums.seconds or 0.0 for sums in column] for kind, column in each.items()}
    numbers = [record.round for record in records]
    energy = stacked("energy", numbers, joules, "energy of the round", "J")
    busy = stacked("busy", numbers, seconds, "busy in the round", "s")
    figures += [energy, busy]
    entries = [(kind, kind_colour(kind), "box") for kind in kinds]
    shown = [card(energy, "Energy by kind", entries), card(busy, "Busy time by kind", entries)]
    shown.append(panel("By kind, over the run", f'{_table(kinds)}<p class="soft small">{_OVERLAP}</p>'))
    if any(record.decisions for record in records):
        shown.append(panel("Decisions", _decisions(records)))
    return cards(shown)


def _table(kinds: Mapping[str, Spent]) -> str:
    total = sum(sums.joules or 0.0 for sums in kinds.values())
    rows = []
    for kind, sums in kinds.items():
        share = f"{100 * (sums.joules or 0.0) / total:.0f} %" if total else readable.UNKNOWN
        moved = (sums.bytes, sums.lost_bytes) if kind != "compute" else (None, None)
        rows.append(
            (kind, readable.duration(sums.seconds), readable.energy(sums.joules), share, *map(readable.size, moved))
        )
    return table(("", "busy", "energy", "share", "moved", "of it lost"), rows)


def _decisions(records: Sequence[RoundRecord]) -> str:
    """What was decided: how often, about how many devices or modules, and why the last time."""
    found: dict[str, list[tuple[int, str, str]]] = {}
    for record in records:
        for decision in record.decisions:
            about = decision.get("about") or decision.get("device", "")  # as older runs call it
            found.setdefault(decision["what"], []).append((record.round, about, decision["why"]))
    return "".join(
        f"<p><b>{escape(what)}</b>: {len(each)} ×, devices or modules: {len({about for _, about, _ in each})}</p>"
        f'<p class="soft small">Last in round {each[-1][0]}: {escape(f"{each[-1][1]}: {each[-1][2]}")}</p>'
        for what, each in found.items()
    )
