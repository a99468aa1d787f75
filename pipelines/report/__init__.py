"""`report.html`: a run, or several runs overlaid, on one page that holds all that it needs and asks no network."""

from .write import write_comparison, write_report

__all__ = ["write_comparison", "write_report"]
