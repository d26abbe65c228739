"""A report of results as one HTML file: no script, nothing of the network, fit for print."""

from collections.abc import Mapping
from typing import Any

from saescope.render.bar_picture import STYLE
from saescope.render.feature_page import asset, content_hash, environment


def report_page(report: Mapping[str, Any]) -> str:
    """Plain data of a report as a page; every text is escaped, but for `picture`, an SVG of
    `bar_picture`."""
    style = f"{asset('page.css')}\n{STYLE}\n{asset('report.css')}"
    policy = (
        f"default-src 'none'; style-src {content_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    template = environment().get_template("report.html.j2")
    return template.render(report=report, policy=policy, style=style)
