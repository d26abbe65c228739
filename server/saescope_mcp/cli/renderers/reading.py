"""Features read off texts: the text itself as a map of heat, then who fires where."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from saescope_mcp.cli.cells import text_of
from saescope_mcp.cli.renderers.parts import (
    Document,
    bar,
    excerpts,
    interval,
    label_of,
    percent,
    rows,
    shaded,
    tokens,
)


def encode_text(document: Document, console: Console) -> None:
    if document.get("features"):
        _named(document, console)
        return
    if document.get("readings"):
        read = [(at, row) for at in document["readings"] for row in at["layers"]]
        rows(console, [_reading(at, row) for at, row in read])
        return
    listed: Sequence[Mapping[str, Any]] = document.get("tokens", [])
    most = max((_heat(row) for row in listed), default=0.0)
    if console.color_system:
        _heat_map(listed, most, console)
    rows(
        console,
        [
            {
                "text": row["text_index"] or None,
                "sae": row.get("sae"),
                "pos": row["pos"],
                "token": row["token"],
                "": bar(_heat(row), most),
                "strongest features": "  ".join(
                    f"{each['feature']} ({text_of(each['activation'])})" for each in row["features"]
                ),
            }
            for row in listed
        ],
    )


def _heat(row: Mapping[str, Any]) -> float:
    return max((each["activation"] for each in row["features"]), default=0.0)


def _heat_map(listed: Sequence[Mapping[str, Any]], most: float, console: Console) -> None:
    """Each text on a line of its own, as the SAE sees it."""
    texts: defaultdict[tuple[int, str], Text] = defaultdict(Text)
    for row in listed:
        shown = shaded(row["token"], _heat(row) / most if most else 0.0)
        texts[row["text_index"], row.get("sae") or ""].append_text(shown)
    for (_, sae), text in texts.items():
        console.print(Text(f"{sae} " if sae else "") + text)
    console.print(f"[dim]shade: the strongest activation at each token, up to {most:.3g}[/]\n")


def _named(document: Document, console: Console) -> None:
    """Named features: how each does as a test, then the places where it fires."""
    rows(console, [_as_test(row) for row in document["features"]])
    places: Sequence[Mapping[str, Any]] = document.get("places", [])
    told = [(place["activation"], place["text"]) for place in places]
    excerpts(console, told, [str(place["feature"]) for place in places])


def _reading(at: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """One layer at one position, a column for each reader."""
    return {
        "pos": at["pos"],
        "layer": row["layer"],
        "logit lens": tokens(row["logit"], 4),
        "Jacobian lens": tokens(row["jacobian"], 4) if row.get("jacobian") else None,
        "rank of the next": row.get("jacobian_rank") or row.get("logit_rank"),
        "features through it": "  ".join(
            f"{each['feature']} ({tokens(each['promotes'], 2)})" for each in row["features"]
        )
        or None,
    }


def _as_test(row: Mapping[str, Any]) -> dict[str, Any]:
    test = row["by_token"] or row["by_text"] or {}
    return {
        "feature": row["feature"],
        "fires on": f"{row['n_firing']:,} tokens ({percent(row['share'])})",
        "max": row["max_activation"],
        "precision": _share(test.get("precision")),
        "recall": _share(test.get("recall")),
        "AUC": test.get("auc"),
        "label": label_of(row["label"]),
    }


def _share(proportion: Mapping[str, Any] | None) -> str | None:
    return interval(**proportion) if proportion else None


def top_features(document: Document, console: Console) -> None:
    listed: Sequence[Mapping[str, Any]] = document.get("features", [])
    contrast = any(row["levels"] for row in listed)
    rows(console, [(_contrasted if contrast else _ranked)(row) for row in listed])
    if listed and contrast:
        console.print("[dim]texts, against: the mean of each text's largest activation[/]")


def _ranked(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "sae": row.get("sae"),
        "feature": row["feature"],
        "max": row["max_activation"],
        "on": f"{row['n_tokens']} tokens" if row["n_tokens"] > 1 else "1 token",
        "most on token": row["top_token"]["token"],
        "promotes": row["promotes"][:3],
        "in a corpus": percent(row["density"]) if row["density"] is not None else None,
        "label": label_of(row["label"]),
    }


def _contrasted(row: Mapping[str, Any]) -> dict[str, Any]:
    texts, against = row["levels"] or ({"mean": None}, {"mean": None})
    return {
        "sae": row.get("sae"),
        "feature": row["feature"],
        "score": row["score"],
        "texts": texts["mean"],
        "against": against["mean"],
        "confirmed": row["confirmed"],
        "most on token": row["top_token"]["token"],
        "label": label_of(row["label"]),
    }
