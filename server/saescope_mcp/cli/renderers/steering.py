"""Steered texts: side by side with the plain one, or below it where there is no room."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saescope_mcp.cli.cells import text_of
from saescope_mcp.cli.renderers.parts import Document, rows, signed

LEAST_COLUMN = 22
"""Columns of text narrower than this are hard to read."""
GAP = 2
_SAID = {"concept_logprob": "concept", "perplexity": "perplexity", "repetition": "repetition"}


def steer_generate(document: Document, console: Console) -> None:
    if table := document.get("table"):
        _of_strengths(table, document, console)
        return
    arms = [
        arm for name in ("baseline", "steered", "controls") for arm in _listed(document.get(name))
    ]
    room = console.width + GAP >= len(arms) * (LEAST_COLUMN + GAP)
    if not arms:
        return
    (_beside if room and console.is_terminal else _below)(arms, console)


def _listed(arms: Any) -> list[Mapping[str, Any]]:
    return [arms] if isinstance(arms, Mapping) else list(arms or [])


def _name(arm: Mapping[str, Any]) -> str:
    return "plain" if arm["label"] == "baseline" else arm["label"]


def _metrics(arm: Mapping[str, Any]) -> list[str]:
    """What was counted on the text, but for what says nothing."""
    found = ((said, arm["metrics"].get(name)) for name, said in _SAID.items())
    return [f"{said} {text_of(value)}" for said, value in found if value]


def _beside(arms: Sequence[Mapping[str, Any]], console: Console) -> None:
    shown = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, expand=True)
    for arm in arms:
        steered = arm["label"].startswith("steered")
        shown.add_column(
            escape(_name(arm)), ratio=1, overflow="fold", style="cyan" if steered else ""
        )
    shown.add_row(*(escape(arm["text"].strip()) for arm in arms))
    shown.add_row(*("" for _ in arms))
    shown.add_row(*(escape("\n".join(_metrics(arm))) for arm in arms), style="dim")
    console.print(shown)


def _below(arms: Sequence[Mapping[str, Any]], console: Console) -> None:
    for arm in arms:
        said = ", ".join(_metrics(arm))
        console.print(f"[bold]{escape(_name(arm))}[/]{f' [dim]({said})[/]' if said else ''}")
        console.print(f"  {escape(' '.join(arm['text'].split()))}")


def _of_strengths(table: Sequence[Mapping[str, Any]], document: Document, console: Console) -> None:
    plain: Mapping[str, Any] = document.get("baseline") or {"text": "", "metrics": {}}
    first = {
        "strength": "plain",
        "concept": "-",
        "perplexity": plain["metrics"].get("perplexity"),
        "verdict": "-",
        "text": " ".join(plain["text"].split()),
    }
    steered = [
        {
            "strength": text_of(row["strength"]),
            "concept": signed(row["concept_logprob"])
            if row["concept_logprob"] is not None
            else None,
            "perplexity": row["perplexity"],
            "verdict": row["verdict"],
            "text": " ".join(row["text"].split()),
        }
        for row in table
    ]
    rows(console, [first, *steered])
    console.print("[dim]concept: the change of the concept tokens' log-probability, in nats[/]")


def steer_search(document: Document, console: Console) -> None:
    """What the strength does beside other ways, then the text that it makes."""
    steered = document.get("steered")
    listed = [
        *([{"arm": "steered", **steered}] if steered else []),
        *document.get("controls", ()),
    ]
    rows(console, [_way(row) for row in listed])
    rows(console, [_at_strength(row) for row in document.get("curve", ())], title="Other strengths")
    lost = [
        {"feature": row["feature"], "lost": signed(row["lost"])}
        for row in document.get("leave_one_out", ())
    ]
    rows(console, lost, title="Lost without")
    for name in ("baseline_text", "steered_text"):
        if text := document.get(name):
            prompt = (
                f"{escape(document.get('prompt') or '')} [bold]{escape(' '.join(text.split()))}[/]"
            )
            console.print(f"[dim]{name.removesuffix('_text')}[/] {prompt}")


def _way(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "way": row["arm"],
        "concept": signed(row["concept_logprob"]),
        "kl": row["kl"],
        "perplexity": row.get("perplexity"),
        "repetition": row.get("repetition"),
    }


def _at_strength(row: Mapping[str, Any]) -> Mapping[str, Any]:
    shown = {name: value for name, value in _way(row).items() if name != "way"}
    return {"strength": row["strength"], **shown}
