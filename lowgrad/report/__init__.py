"""A compiled step as one HTML page that works offline: `c.report("step.html")`."""

from lowgrad.report.page import report

__all__ = ["report"]
