"""Pictures and pages that were asked for: SVG and HTML files below SAESCOPE_HOME, always beside the
numbers that they show."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from saescope import json_text
from saescope.errors import NotFoundError, ResourceError, cannot_write
from saescope.names import home

if TYPE_CHECKING:
    from saescope.evals import Evaluation
    from saescope.graphs import Graph
    from saescope.graphs.export import GraphFile
    from saescope.models import LanguageModel
    from saescope_mcp.jobs import Run


MOST_LISTED_BYTES = 64 << 20
"""The largest list of graphs that another one is added to."""


def of_evaluation(evaluation: "Evaluation", name: str, *, d_sae: int) -> list[str]:
    """How often features fire, and explained variance along the context."""
    from saescope.render import density_histogram, variance_by_position

    n_dead = round(evaluation.dead_share * d_sae)
    return [
        _save(f"{name}-density.svg", density_histogram(evaluation.density, n_dead=n_dead)),
        _save(
            f"{name}-positions.svg",
            variance_by_position(evaluation.positions, overall=evaluation.explained_variance),
        ),
    ]


def of_training(run: "Run", over: "Run | None" = None) -> list[str]:
    """Draw the metrics of a run so far, and those of another over them; nothing before the first
    step."""
    from saescope.render import training_curves

    points = _points(run)
    if not points:
        return []
    name = f"{run.id}-{over.id}" if over else f"{run.id}-curves"
    drawn = training_curves(
        points, over=_points(over) if over else (), names=(run.id, over.id if over else "")
    )
    return [_save(f"{name}.svg", drawn)]


class FeatureFiles(NamedTuple):
    """Where a feature's page and its picture were written."""

    page: str
    pictures: list[str]


def of_feature(card: dict[str, Any]) -> FeatureFiles:
    """A feature's page, which links to those of its relatives that were written before, and a
    picture of the same."""
    from saescope.render import feature_picture
    from saescope.render.feature_page import feature_page

    of_sae = card["weights_hash"][:12]
    name = f"{of_sae}-{card['feature']}"
    related = [row["feature"] for row in (*card["neighbours"], *card["cofiring"])]
    files = {feature: f"{of_sae}-{feature}.html" for feature in related}
    there = {n: file for n, file in files.items() if (home() / "pictures" / file).is_file()}
    page = _save(f"{name}.html", feature_page(card, pages=there))
    return FeatureFiles(page, [_save(f"{name}.svg", feature_picture(card))])


class GraphPage(NamedTuple):
    """Where a graph's page was written; empty where it could not be, and why."""

    path: str
    warnings: list[str]


def of_graph(graph: "Graph", cards: dict[str, Any], reading: str, name: str) -> GraphPage:
    """A graph's page. It comes unasked: what was traced is not lost where it cannot be written."""
    from saescope.render.graph_page import graph_page

    page = graph_page(asdict(graph), cards=cards, reading=reading)
    try:
        return GraphPage(_save(f"{graph_name(name)}.html", page), [])
    except ResourceError as error:
        return GraphPage("", [f"There is no page. {error.message}"])


def page_of_graph(name: str) -> str:
    """The page of a graph that was traced here.

    Raises:
        NotFoundError: GRAPH_NOT_FOUND.
    """
    path = home() / "pictures" / f"{graph_name(name)}.html"
    if not (re.fullmatch(r"[0-9a-f]{12}", name) and path.is_file()):
        raise NotFoundError(
            f"There is no graph {name!r} here.",
            code="GRAPH_NOT_FOUND",
            field="name",
            got=name,
            allowed="the page that trace_circuit names",
            hint="Call trace_circuit again.",
        )
    return path.read_text(encoding="utf-8")


def graph_name(name: str) -> str:
    """How the files of a graph are called."""
    return f"graph-{name}"


class GraphExport(NamedTuple):
    """Where a graph's JSON was written, and what was not."""

    path: str
    warnings: list[str]


def write_graph(
    graph: "Graph", model: "LanguageModel", prompt: str, labels: dict[str, str], path: str
) -> GraphExport:
    """Write a graph as circuit-tracer and Neuronpedia read it, and put it on the list of graphs
    beside it, which circuit-tracer's page opens first."""
    from saescope.graphs.export import GraphFile, export_text, first_shown

    file = Path(path)
    made = GraphFile(
        graph=graph,
        slug=file.stem,
        scan=model.name,
        prompt=prompt,
        n_layers=model.n_layers,
        labels=labels,
        pinned=first_shown(graph),
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(export_text(made), encoding="utf-8")
        warnings = _list_graph(made, file.parent / "graph-metadata.json")
    except OSError as error:
        raise cannot_write("The graph", file.parent, error, field="export") from error
    return GraphExport(str(file), warnings)


def _list_graph(made: "GraphFile", listing: Path) -> list[str]:
    """Add it to the list; a file of that name that is none stays as it is."""
    from saescope.graphs.export import listed

    try:
        content = json.dumps(listed(_read_list(listing), made), indent=2, allow_nan=False)
    except ValueError:
        return [
            f"{listing.name} there is no list of graphs and was left alone: circuit-tracer's page "
            "will not show this one. Export to another folder."
        ]
    # Put in its place whole: a link that somebody laid there is not followed.
    new = listing.with_name(f".{listing.name}.new")
    new.unlink(missing_ok=True)
    new.write_text(content, encoding="utf-8")
    new.replace(listing)
    return []


def _read_list(listing: Path) -> Any:
    """What is there; None without a file.

    Raises:
        ValueError: no JSON, or more than a list would have.
    """
    if listing.is_symlink() or (listing.exists() and not listing.is_file()):
        raise ValueError("no file")
    if not listing.is_file():
        return None
    if listing.stat().st_size > MOST_LISTED_BYTES:
        raise ValueError("too large")
    return json_text.parse(listing.read_bytes())


def _points(run: "Run") -> list[dict[str, Any]]:
    """All that the last checkpoint knows, and what came since."""
    known: list[dict[str, Any]] = []
    if run.checkpoint and (state := Path(run.checkpoint) / "state.json").is_file():
        known = json.loads(state.read_text(encoding="utf-8"))["history"]["points"]
    last = known[-1]["step"] if known else 0
    history: list[dict[str, Any]] = run.progress.get("metrics", {}).get("history", [])
    return known + [point for point in history if point["step"] > last]


def _save(name: str, picture: str) -> str:
    folder = home() / "pictures"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(picture, encoding="utf-8")
    except OSError as error:
        without = "Call again without picture."
        raise cannot_write("The picture", folder, error, field="picture", hint=without) from error
    return str(folder / name)
