"""Pictures and pages from plain data."""

from saescope.render.bar_picture import bar_picture
from saescope.render.feature_page import feature_app, feature_page
from saescope.render.graph_page import graph_app, graph_page
from saescope.render.graph_picture import graph_picture
from saescope.render.pictures import (
    density_histogram,
    feature_picture,
    training_curves,
    variance_by_position,
)
from saescope.render.report_page import report_page
from saescope.render.result_page import result_app

__all__ = [
    "bar_picture",
    "density_histogram",
    "feature_app",
    "feature_page",
    "feature_picture",
    "graph_app",
    "graph_page",
    "graph_picture",
    "report_page",
    "result_app",
    "training_curves",
    "variance_by_position",
]
