"""What a feature is: cards, searches, quizzes, labels and the index that they rest on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from saescope_mcp.cli.cells import text_of
from saescope_mcp.cli.renderers.parts import (
    Document,
    excerpts,
    facts,
    interval,
    label_of,
    numbered,
    percent,
    rows,
    signed,
    tokens,
)


def describe_feature(document: Document, console: Console) -> None:
    for n, card in enumerate(document.get("cards", [])):
        console.print(f"{chr(10) if n else ''}[bold]feature {card['feature']}[/]")
        _facts(card, console)
        _examples(card["examples"], console)
    if document["feature"] is None:
        return
    _facts(document, console)
    _examples(document["examples"], console)
    rows(console, [_relative(row, "cosine") for row in document["neighbours"]], title="near")
    rows(console, [_relative(row, "share") for row in document["cofiring"]], title="fire with it")
    console.print()
    facts(
        console,
        {
            "page": document.get("page_path"),
            "picture": next(iter(document.get("pictures", [])), None),
            "neuronpedia": document.get("url"),
        },
    )


def _facts(card: Document, console: Console) -> None:
    levels = [
        f"{name} {text_of(card[f'{name}_activation'])}"
        for name in ("typical", "max")
        if card.get(f"{name}_activation") is not None
    ]
    fires = f"{percent(card['density'])} of tokens" if card["density"] is not None else ""
    facts(
        console,
        {
            "label": label_of(card["label"]),
            "fires on": fires,
            "activation": ", ".join(levels),
            "strongest on": tokens(card.get("top_tokens", [])),
            "promotes": tokens(card["promotes"]),
            "suppresses": tokens(card.get("suppresses", [])),
        },
    )


def _examples(examples: Sequence[Mapping[str, Any]], console: Console) -> None:
    excerpts(console, [(each["activation"], each["text"]) for each in examples])


def _relative(row: Mapping[str, Any], measure: str) -> dict[str, Any]:
    return {
        "feature": row["feature"],
        measure: row[measure] if measure == "cosine" else percent(row[measure]),
        "most on token": row["top_token"],
        "promotes": row["promoted"],
        "label": label_of(row["label"]),
    }


def find_features(document: Document, console: Console) -> None:
    found: Sequence[Mapping[str, Any]] = document["features"]
    rows(console, [_way_of(row)(row) for row in found])
    if search := document.get("search"):
        _controls(search, console)
    if sets := document.get("contrast"):
        _baselines(sets, console)


def _way_of(row: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """How a row is shown, by what it was found."""
    if "held_out" in row:
        return _contrasted
    return _caused if "screen" in row else _found


def _caused(row: Mapping[str, Any]) -> dict[str, Any]:
    """A feature that makes a concept likelier."""
    pushed = row["causes"] is not None
    return {
        "feature": row["feature"],
        "causes": row["causes"],
        "per nat of KL": _score(row) if pushed else None,
        "at strength": row["strength"],
        "by gradient": signed(row["screen"]),
        "p": row["p"],
        "label": label_of(row["label"]),
    }


def _score(row: Mapping[str, Any]) -> str | None:
    low, high = row["interval"] or (None, None)
    return interval(row["score"], low, high)


def _controls(search: Mapping[str, Any], console: Console) -> None:
    """What pushes reach that should do nothing."""
    named = {
        "random features": search["random_features"],
        "best random directions": search["random_directions"],
    }
    rows(
        console,
        [
            {
                "instead of a feature": name,
                "n": each["n"],
                "mean": each["mean"],
                "best": each["best"],
            }
            for name, each in named.items()
        ],
    )


def _found(row: Mapping[str, Any]) -> dict[str, Any]:
    """A feature by words, by tokens, by texts, or with its partner in another SAE."""
    if "partner" in row:
        return _matched(row)
    if "tokens" not in row:
        return {"feature": row["feature"], "score": row["score"], "why": row["why"]}
    ranks = (f"{each['token']!r} (rank {each['rank']:,})" for each in row["tokens"])
    return {
        "feature": row["feature"],
        "writes": row["writes"],
        "push": signed(row["push"]) if row["push"] is not None else None,
        "raises": ", ".join(ranks),
        "label": label_of(row["label"]),
    }


def _matched(row: Mapping[str, Any]) -> dict[str, Any]:
    correlation = row["correlation"]
    told = row["low"] is not None and correlation is not None
    return {
        "feature": row["feature"],
        "partner": row["partner"],
        "score": row["score"],
        "cosine": row["cosine"],
        "correlation": interval(correlation, row["low"], row["high"]) if told else correlation,
        "label": label_of(row["label"]),
        "its label": label_of(row["partner_label"]),
    }


def _contrasted(row: Mapping[str, Any]) -> dict[str, Any]:
    (texts, against), held_out = row["levels"], row["held_out"]
    return {
        "feature": row["feature"],
        "more on": row["side"],
        "AUC": interval(held_out["auc"], held_out["low"], held_out["high"]),
        "texts": texts["mean"],
        "against": against["mean"],
        "confirmed": row["confirmed"],
        "most on token": (row["top"] or {}).get("token"),
        "label": label_of(row["label"]),
    }


def _baselines(sets: Mapping[str, Any], console: Console) -> None:
    """What tells the two sides apart without any feature."""
    rows(
        console,
        [
            {"instead of a feature": each["name"].replace("_", " "), "AUC": each["auc"]}
            for each in sets["baselines"]
        ],
    )


def quiz_feature(document: Document, console: Console) -> None:
    asks = {"detection": "anywhere?", "fuzzing": "at the mark?"}
    numbered(
        console,
        [(item["n"], asks.get(item["kind"], ""), item["text"]) for item in document["items"]],
    )


def label_feature(document: Document, console: Console) -> None:
    facts(
        console,
        {
            "label": label_of(document["label"]),
            "anywhere in a text": _accuracy(document["detection"]),
            "at the marked token": _accuracy(document["fuzzing"]),
        },
    )
    if missed := document["missed"]:
        console.print("\n[italic]answered wrongly[/]")
        truth = {True: "fires", False: "does not fire"}
        numbered(console, [(item["n"], truth[item["fires"]], item["text"]) for item in missed])


def _accuracy(value: float | None) -> str | None:
    return None if value is None else f"{percent(value)} right (balanced)"


def index_features(document: Document, console: Console) -> None:
    eta_s = document.get("eta_s")
    facts(
        console,
        {
            "state": document["state"],
            "job": document.get("job_id"),
            "text": document.get("dataset"),
            "to go": f"{eta_s:.0f} s" if eta_s else None,
        },
    )
    rows(
        console,
        [
            {
                "sae": row["sae"],
                "features that fired": f"{row['n_fired']:,} of {row['n_features']:,}",
                "median density": percent(row["median_density"]),
                "tokens": f"{row['n_tokens']:,}",
            }
            for row in document.get("indexes", [])
        ],
    )
    if checkpoint := document.get("checkpoint"):
        console.print(f"checkpoint: {escape(str(checkpoint))}")
