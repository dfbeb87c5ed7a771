"""One self-contained page about a bundle: is the depth right, how fast is it, and how is that known."""

from cdm_export.report.page import ReportRequest, write_page

__all__ = ["ReportRequest", "write_page"]
