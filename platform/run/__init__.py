"""What a run leaves behind: its directory, a record a round, the ledger of all that was sent and computed."""

from .directory import RunDirectory, RunInfo, list_runs
from .ledger import Ledger
from .record import LINKS, LedgerRow, NodeEntry, RoundRecord, Status, Summary, headline

__all__ = [
    "LINKS",
    "Ledger",
    "LedgerRow",
    "NodeEntry",
    "RoundRecord",
    "RunDirectory",
    "RunInfo",
    "Status",
    "Summary",
    "headline",
    "list_runs",
]
