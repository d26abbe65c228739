"""Kept results as reports that others can read, run again and check."""

from saescope.reports.checking import check_report, checked
from saescope.reports.comparison import Rerun, said
from saescope.reports.data import ReportData, read_data
from saescope.reports.export import export_report, gathered, report_html, require_new, write_report
from saescope.reports.sources import texts_named

__all__ = [
    "ReportData",
    "Rerun",
    "check_report",
    "checked",
    "export_report",
    "gathered",
    "read_data",
    "report_html",
    "require_new",
    "said",
    "texts_named",
    "write_report",
]
