"""What a finished tk run looks like: report.html and the loss curve."""

from tk_report.write import write_report

__all__ = ["write_report"]
