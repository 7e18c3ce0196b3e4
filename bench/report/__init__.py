from bench.report.page import ReportResult, write_report

__all__ = ["ReportResult", "write_report"]
