"""How good an SAE is, and where it was written."""

from typing import Any

from rich.console import Console

from saescope_mcp.cli.cells import text_of
from saescope_mcp.cli.renderers.parts import Document, facts, interval, percent, rows, size
from saescope_mcp.cli.typed import help_in_shell
from saescope_mcp.cli.verbs import VERBS

_SCORES = {
    "explained_variance": "explained variance",
    "ce_score": "CE score",
    "kl_score": "KL score",
}


def evaluate_sae(document: Document, console: Console) -> None:
    if document["n_tokens"] is None:
        facts(console, {"state": document["state"], "job": document["job_id"]})
        return
    rows(console, [row for name in _SCORES if (row := _score(name, document))])
    console.print()
    shrinkage: dict[str, Any] = document["shrinkage"] or {}
    facts(
        console,
        {
            "L0 (features a token)": text_of(document["l0"]),
            "never fire": percent(document["dead_share"]),
            "fire at > 10% of tokens": percent(document["dense_share"]),
            "norm kept": percent(shrinkage.get("l2_ratio")),
            "cross-entropy": _entropy(document["ce"]),
            "picture": next(iter(document["pictures"]), None),
        },
    )
    console.print()
    for reason in document["reasons"]:
        said = help_in_shell(f"{reason['finding']} {reason['advice']}", VERBS["evaluate_sae"])
        console.print(f"- {said.strip()}", markup=False)


def _score(name: str, document: Document) -> dict[str, Any]:
    """A score with its interval, beside those of a random SAE and of PCA."""
    if document[name] is None:
        return {}
    ends = document["intervals"].get(name, {"low": None, "high": None})
    baselines = document["baselines"] or {}
    others = {
        said: (baselines.get(which) or {}).get(name)
        for which, said in (("random_sae", "random SAE"), ("pca", "PCA"))
    }
    this = interval(document[name], ends["low"], ends["high"])
    return {"score": _SCORES[name], "this SAE": this, **others}


def _entropy(ce: Document | None) -> str | None:
    if not ce:
        return None
    return (
        f"{text_of(ce['clean'])} clean, {text_of(ce['with_sae'])} with the SAE, "
        f"{text_of(ce['zero_ablation'])} without the site"
    )


def publish_sae(document: Document, console: Console) -> None:
    planned = document["state"] == "planned"
    facts(
        console,
        {
            "would be written to" if planned else "written to": document["target"],
            "job": document["job_id"],
            "private": text_of(document["private"]) if document["private"] is not None else None,
            "with metrics": text_of(document["evaluated"]),
            "commit": document["commit"],
        },
    )
    console.print()
    rows(
        console,
        [{"file": each["name"], "size": size(each["n_bytes"])} for each in document["files"]],
    )
    console.print()
    facts(
        console,
        {
            "load it": document["load_command"],
            "in Python": document["load_python"],
            "in sae-lens": document["load_sae_lens"],
        },
    )
