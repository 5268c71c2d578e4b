"""One self-contained HTML page for a run, or for the comparison of several. Imports no torch."""

from tinsmith.report.html import write_report

__all__ = ["write_report"]
