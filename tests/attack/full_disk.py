"""What writes, on a disk that is full or read-only: `python -m tests.attack.full_disk FOLDER KIND`
tells what each said and left."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.server.helpers import HOOK, call, save_random_sae

import saescope as ss
from saescope.errors import SaescopeError
from saescope.training import train, train_config
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

GLASS = Path(__file__).parents[1] / "data" / "glassllm-en"


def fill(folder: Path, kind: str) -> None:
    """No byte more fits, or none may be written. A file's size is limited where no file system can
    be mounted."""
    if kind == "limit":
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    elif kind == "readonly":
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    else:
        with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass


def empty(folder: Path, kind: str) -> None:
    if kind == "limit":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    elif kind == "readonly":
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    else:
        (folder / "ballast").unlink()


def there(folder: Path) -> dict[str, int]:
    """Files that hold something, by size; locks and logs say nothing of the work."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "ballast"]
    return {
        str(file.relative_to(folder)): file.stat().st_size for file in files if file.stat().st_size
    }


async def said(state: AppState, tool: str, **arguments: Any) -> list[str]:
    outcome = await next(each for each in ALL_TOOLS if each.name == tool).call(state, arguments)
    document = outcome.document
    return [document["code"], document["message"]] if outcome.is_error else ["done", ""]


def raised(work: Callable[[], Any]) -> list[str]:
    try:
        work()
    except SaescopeError as error:
        return [error.code, error.message]
    return ["done", ""]


async def main(folder: Path, kind: str) -> dict[str, Any]:
    sae_dir = save_random_sae(folder.parent / "sae")
    roots: dict[str, Any] = {"read_roots": (folder.parent, GLASS.parent), "write_roots": (folder,)}
    state = AppState(Settings(**roots, offline=True))
    sae = (await call(state, "load_sae", path=str(sae_dir), model=str(GLASS)))["sae"]
    loaded, text = state.saes[sae], folder.parent / "text.txt"
    text.write_text("The old man went to the sea. " * 400)
    await call(state, "label_feature", sae=sae, feature=1, text="before")
    result_id = (await call(state, "top_features", sae=sae, text="The sea"))["result_id"]
    state.keeper.settle()  # the ledger has its results
    before, told = there(folder), dict[str, Any]()
    model: Any = loaded.model
    small: dict[str, Any] = {"n_tokens": 500, "context_size": 32}
    sizes: dict[str, Any] = {
        "training_tokens": 512,
        "batch_size": 128,
        "d_sae": 64,
        "k": 4,
        "context_size": 32,
    }
    config = train_config(model, HOOK, dataset=str(text), **sizes)

    def write() -> dict[str, Callable[[], Any]]:
        return {
            "save": lambda: loaded.sae.save(folder / "saved"),
            "index": lambda: ss.index_features(model, loaded.sae, str(text), **small),
            "train": lambda: train(config, model=model, folder=folder / "run"),
        }

    tools: dict[str, dict[str, Any]] = {
        "publish_sae": {"sae": sae, "path": str(folder / "published"), "dry_run": False},
        "label_feature": {"sae": sae, "feature": 2, "text": "during"},
        "export_report": {"path": str(folder / "report"), "results": [result_id]},
        "index_features": {"sae": sae, "dataset": str(text), "n_tokens": 500},
        "train_sae": {"model": str(GLASS), "hook_name": HOOK, "training_tokens": 512},
    }
    fill(folder, kind)
    for tool, arguments in tools.items():
        told[tool] = await said(state, tool, **arguments)
    for name, work in write().items():
        told[name] = raised(work)
    told["top_features"] = await said(state, "top_features", sae=sae, text="It still reads.")
    left = {name: size for name, size in there(folder).items() if before.get(name) != size}
    empty(folder, kind)
    again = {name: raised(work)[0] for name, work in write().items()}
    for tool in ("publish_sae", "label_feature", "export_report"):
        again[tool] = (await said(state, tool, **tools[tool]))[0]
    card = await call(state, "describe_feature", sae=sae, feature=1)
    state.close()
    return {"told": told, "left": left, "again": again, "label": card["label"]["text"]}


if __name__ == "__main__":
    place, how = Path(sys.argv[1]), sys.argv[2]
    os.environ["SAESCOPE_HOME"] = str(place)
    sys.stdout.write(json.dumps(asyncio.run(main(place, how))) + "\n")
