"""What is published, loaded and here."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from saescope.progress import duration
from saescope_mcp.cli.cells import text_of
from saescope_mcp.cli.renderers.parts import Document, facts, rows, size
from saescope_mcp.cli.typed import as_command


def find_saes(document: Document, console: Console) -> None:
    rows(
        console,
        [
            {
                "release": row["release"],
                "sae_id": row["sae_id"],
                "d_sae": row["d_sae"],
                "l0": row["l0"],
                "here": row["cached"],
            }
            for row in document["saes"]
        ],
    )
    if fit := document.get("fit"):
        facts(console, {"model": _model(fit)})
    if nearest := document["nearest"]:
        console.print(f"Like what was asked for: {', '.join(nearest)}", markup=False)


def _model(fit: Mapping[str, Any]) -> str:
    if fit["here"]:
        where = "is here"
    else:
        where = f"is a download of {size(fit['disk_bytes'])}" if fit["disk_bytes"] else "not here"
    fits = f"fits in {fit['fits']}" if fit["fits"] else "does not fit here"
    return f"{fit['name']} {where}, {fits}"


def load_sae(document: Document, console: Console) -> None:
    check: Mapping[str, Any] = document["check"] or {}
    memory, index = document["memory"], document["index"]
    kept = check.get("ce_score")
    facts(
        console,
        {
            "SAE": document["sae"],
            "model": document["model"],
            "site": document["hook_name"],
            "layers": document.get("layers"),
            "kind": document["architecture"],
            "features": f"{document['d_sae']:,}" if document["d_sae"] else None,
            "format": document["dialect"],
            "fits": text_of(document["fits"]) if document["fits"] is not None else None,
            "memory": f"{size(memory['need'])} of {size(memory['free'])} free" if memory else None,
            "check": check.get("verdict"),
            "explained variance": _known(check.get("explained_variance")),
            "CE score": _known(kept),
            "L0": _known(check.get("l0")),
            "index": f"{index['n_tokens']:,} tokens of {index['dataset']}" if index else None,
            "job": document["job_id"],
        },
    )
    rows(console, [dict(layer) for layer in check.get("layers", [])], title="at each layer")


def _known(value: float | None) -> str | None:
    return None if value is None else text_of(value)


def unload(document: Document, console: Console) -> None:
    facts(console, {"freed": size(document["freed_bytes"])})


def server_status(document: Document, console: Console) -> None:
    memory = document["memory"]
    facts(
        console,
        {
            "version": document["version"],
            "device": document["device"],
            "memory": f"{size(memory['free'])} of {size(memory['budget'])} free for models",
            "network": "not used or not there" if document["offline"] else "there",
        },
    )
    rows(
        console,
        [
            {"loaded": each["handle"], "as": each["dtype"], "size": size(each["weights_bytes"])}
            for each in document["loaded"]
        ],
    )
    rows(
        console,
        [
            {"here": each["name"], "load it": as_command(each["call"])}
            for each in document["cached"]
        ],
    )
    rows(
        console,
        [
            {"job": job["job_id"], "state": job["state"], "for": duration(job["elapsed_s"])}
            for job in document["jobs"]
        ],
    )
