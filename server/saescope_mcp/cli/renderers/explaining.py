"""Predictions: what they rest on, and what a change of features does to them."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from math import exp
from typing import Any

from rich.console import Console
from rich.markup import escape

from saescope.controls import ENOUGH
from saescope_mcp.cli.renderers.parts import Document, facts, label_of, percent, rows, signed


def attribute_logit(document: Document, console: Console) -> None:
    console.print(_predicted(document["target"], document["against"]))
    rows(
        console,
        [
            {
                "sae": row.get("sae"),
                "feature": row["feature"],
                "pos": row["pos"],
                "token": row["token"],
                "activation": row["activation"],
                "attribution": signed(row["attribution"]),
                "measured": signed(row["measured_effect"])
                if row["measured_effect"] is not None
                else None,
                "label": label_of(row["label"]),
            }
            for row in document["features"]
        ],
        note="attribution: a cheap estimate; measured: what is lost when just that feature is "
        "removed there.",
    )


def _predicted(target: Mapping[str, Any] | None, against: Mapping[str, Any] | None) -> str:
    shown = [
        f"{escape(repr(each['token']))} {percent(each['prob'])}"
        for each in (target, against)
        if each
    ]
    return f"predicted: {'  vs  '.join(shown)}" if shown else ""


def trace_circuit(document: Document, console: Console) -> None:
    """The reading, then where all of it is: a graph of hundreds of nodes fits no terminal."""
    console.print(escape(document["reading"]))
    if shared := document.get("shared"):
        console.print(escape(f"\n{shared}"))
    console.print()
    facts(console, {"page": document.get("page_path"), "written": document.get("exported")})


def compare_prompts(document: Document, console: Console) -> None:
    """What differs, what carries it, then each feature in both prompts."""
    console.print(_predicted(document["target"], document["against"]))
    rows(
        console,
        [
            {"a": repr(each["text_a"]), "b": repr(each["text_b"])}
            for each in document["differences"]
        ],
        title="what differs",
    )
    parts = {
        "all_features": "all features",
        "together": "those listed",
        "error": "the error alone",
        "whole": "features and error",
    }
    rows(
        console,
        [
            {
                "patched": name,
                "of the difference": _closed(part["difference"]),
                "of the KL": _closed(part["kl"]),
            }
            for field, name in parts.items()
            if (part := document[field])
        ],
    )
    rows(
        console,
        [
            {
                "sae": row.get("sae"),
                "feature": row["feature"],
                "pos": row["pos_a"],
                "token": row["token_a"],
                "on a": row["activation_a"],
                "on b": row["activation_b"],
                "closes": _closed(row["closed"]),
                "label": label_of(row["label"]),
            }
            for row in document["features"]
        ],
        note="closes: the share of the way from a's prediction to b's when this alone is patched.",
    )


def _closed(share: float | None) -> str | None:
    return None if share is None else percent(share)


def intervene(document: Document, console: Console) -> None:
    if prompts := document.get("on_prompts"):
        _on_prompts(prompts, document, console)
    elif document["before"] and document["after"]:
        _before_and_after(document["before"], document["after"], console)
    control = document["control"]
    if control and control["mean"] is not None:
        console.print(
            f"effect {signed(document['effect'])}; {control['n']} random features changed alike: "
            f"{_beside(control)}"
        )
    rows(
        console,
        [
            {
                "feature": share["feature"],
                "alone": signed(share["alone"]),
                "all but this": signed(share["all_but_this"]),
            }
            for share in document.get("shares", [])
        ],
        title="each edit by itself",
    )


def _beside(control: Mapping[str, Any]) -> str:
    spread = f" ± {control['sd']:.2g}" if control["sd"] is not None else ""
    told = "too few to tell" if control["n"] < ENOUGH else "not outside these"
    told = "outside these" if control["outside"] else told
    return f"{signed(control['mean'])}{spread} ({told})"


def _before_and_after(before: Document, after: Document, console: Console) -> None:
    """The tokens that were asked for, then the likeliest of both, side by side."""
    asked = [
        (before[name], after[name])
        for name in ("target", "against")
        if before[name] and after[name]
    ]
    rows(
        console,
        [
            {
                "token": was["token"],
                "before": percent(was["prob"]),
                "after": percent(now["prob"]),
                "rank": f"{was['rank']} → {now['rank']}",
            }
            for was, now in asked
        ],
    )
    console.print()
    likeliest = zip_longest(before["top"], after["top"])
    rows(
        console,
        [
            {"likeliest before": _likely(one), "likeliest after": _likely(other)}
            for one, other in likeliest
        ],
    )


def _likely(token: Mapping[str, Any] | None) -> str:
    return f"{token['token']!r} {percent(token['prob'])}" if token else ""


def _on_prompts(prompts: Sequence[Mapping[str, Any]], document: Document, console: Console) -> None:
    rows(
        console,
        [
            {
                "prompt": n,
                "target": row["target"],
                "before": percent(exp(row["logprob_before"])),
                "after": percent(exp(row["logprob_after"])),
                "effect": signed(row["effect"]),
                "": "" if row["touched"] else "untouched",
            }
            for n, row in enumerate(prompts, 1)
        ],
    )
    if (interval := document.get("interval")) and document["effect"] is not None:
        low, high = interval
        console.print(f"mean {signed(document['effect'])} (95 %: {signed(low)} to {signed(high)})")
