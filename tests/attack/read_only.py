"""Every tool on a home, and on a run's folder, that may only be read: `python -m
tests.attack.read_only FOLDER WHERE`."""

import asyncio
import codecs
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.attack.full_disk import GLASS
from tests.server.helpers import HOOK, call, save_random_sae
from tests.server.test_jobs import DONE, a_run

import saescope as ss
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.jobs import Runs
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

NOBODY = 65534
TEXT = "The old man went to the sea. "


def closed(folder: Path, place: Path) -> None:
    """Nobody may write there any more; root would, so it becomes somebody else, who owns the
    place."""
    for place in (folder, *folder.rglob("*")):
        place.chmod(0o555 if place.is_dir() else 0o444)
    codecs.lookup("unicode-escape")  # templates need it; nobody may read a Python of root's
    if os.geteuid() == 0:
        for each in (place, *place.rglob("*")):
            os.chown(each, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        (folder / "trial").touch()
    except PermissionError:
        return
    raise SystemExit("this user writes everywhere")


def calls_of(sae: str, place: Path, result_id: str) -> dict[str, dict[str, Any]]:
    """Each tool once, export_report for a report that is there and for a new one; those that read
    first. A name may have a word after it."""
    on = {"sae": sae}
    said = {"text": "Feature 1 fires.", "feature": 1, "effect": " sea", "direction": "fires"}
    edit = {"feature": 1, "mode": "ablate"}
    return {
        "server_status": {},
        "job_status": {},
        "find_saes": {"query": "gemma"},
        "top_features": on | {"text": TEXT},
        "encode_text": on | {"text": TEXT},
        "describe_feature": on | {"feature": 1},
        "find_features": on | {"texts": [TEXT]},
        "attribute_logit": on | {"prompt": TEXT},
        "trace_circuit": on | {"prompt": TEXT, "max_features": 20, "n_measured": 2},
        "intervene": on | {"prompt": TEXT, "edits": [edit]},
        "steer_generate": on
        | {"prompt": TEXT, "features": [{"feature": 1, "strength": 1.0}], "max_new_tokens": 4},
        "steer_search": on
        | {
            "features": [{"feature": 1}],
            "concept": [" sea"],
            "prompts": [TEXT, "The sea"],
            "held_out": ["A king", "She saw"],
            "max_new_tokens": 2,
        },
        "evaluate_sae": on | {"n_tokens": 300},
        "load_sae": {"path": str(place / "other"), "model": str(GLASS)},
        "quiz_feature": on | {"feature": 1},
        "label_feature": on | {"feature": 1, "text": "during"},
        "index_features": on | {"n_tokens": 500},
        "train_sae": {"model": str(GLASS), "hook_name": HOOK, "training_tokens": 512},
        "publish_sae": on | {"path": str(place / "home" / "published"), "dry_run": False},
        "results": {},
        "claim": on | said | {"level": "seen", "results": [result_id]},
        "export_report check": {"check": str(place / "report"), "wait_s": 55.0},
        "export_report": {"path": str(place / "home" / "report"), "results": [result_id]},
        "cancel_job": {"job_id": "train-cut"},
        "unload": {"handle": sae},
    }


async def main(place: Path, where: str) -> dict[str, Any]:
    home = place / "home"
    for name in ("sae", "other"):
        save_random_sae(place / name, seed=len(name))
    (place / "text.txt").write_text(TEXT * 400)
    roots: dict[str, Any] = {"read_roots": (place, GLASS.parent), "write_roots": (place,)}
    state = AppState(Settings(**roots, offline=True))
    source = {"path": str(place / "sae"), "model": str(GLASS)}
    sae = (await call(state, "load_sae", **source, wait_s=55.0))["sae"]
    if where != "empty home":
        loaded: Any = state.saes[sae]
        await call(state, "label_feature", sae=sae, feature=1, text="before")
        text = str(place / "text.txt")
        ss.index_features(loaded.model, loaded.sae, text, n_tokens=500, context_size=32)
        runs = Runs(home / "jobs")
        for run_id, state_then in (("train-cut", "interrupted"), ("train-dead", "running")):
            asked = {"model": str(GLASS), "hook_name": HOOK, "training_tokens": 512}
            run = a_run(run_id, state=state_then, name=run_id, request=asked, **DONE)
            runs.table.restore([run])
            runs.folder(run_id).mkdir()
            runs.keep(run)
            (runs.folder(run_id) / "lock").touch()
    asked = {"sae": sae, "text": TEXT}
    result_id = (await call(state, "top_features", **asked))["result_id"]
    report = {"path": str(place / "report"), "results": [result_id]}
    await call(state, "export_report", **report)
    calls = calls_of(sae, place, result_id)
    if where == "run":
        calls = {name: calls[name] for name in ("job_status", "server_status", "cancel_job")} | {
            "train_sae": {"resume": "train-cut"}
        }
    state.keeper.settle()
    closed(home / "jobs" / "train-cut" if where == "run" else home, place)
    if not os.access(sys.executable, os.X_OK):
        calls.pop("export_report check", None)  # it starts a Python, which may be root's alone
    told = dict[str, Any]()
    for name, arguments in calls.items():
        tool = next(each for each in ALL_TOOLS if each.name == name.split()[0])
        outcome = await tool.call(state, arguments)
        said = outcome.document
        told[name] = [said.get("code", ""), outcome.text[:400], said.get("hint", "")]
        if name == "describe_feature":
            told["label"] = said.get("label")
    state.close()
    return told


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    os.environ["SAESCOPE_HOME"] = str(folder / "home")
    (folder / "home").mkdir()
    sys.stdout.write(json.dumps(asyncio.run(main(folder, sys.argv[2]))) + "\n")
