"""Every write of each writer fails in turn: `LD_PRELOAD=bad_disk.so python -m tests.attack.bad_disk
FOLDER ERROR SEED MOST`.

Tells, writer by writer and moment by moment, what was wrong: nothing is expected.
"""

import asyncio
import ctypes
import errno
import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.attack.full_disk import GLASS, raised, said
from tests.core.fake_hub import FakeHub
from tests.core.formats.test_authors_formulas import write_openai
from tests.core.formats.trees import pickles_allowed, random_weights
from tests.server.helpers import HOOK, call, save_random_sae

import saescope as ss
from saescope.checkpoints import latest
from saescope.errors import SaescopeError
from saescope.features import LabelStore
from saescope.features.index import find_index
from saescope.hub.download import fetch
from saescope.load import load_sae
from saescope.training import train, train_config
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.state.measured import recall

CODES = {
    *("DISK_FULL", "CANNOT_WRITE", "DISK_ERROR", "LABELS_UNAVAILABLE", "JOBS_UNAVAILABLE"),
    *("CHECKPOINT_NOT_WRITTEN", "FILE_READ_ERROR", "LEDGER_UNAVAILABLE"),
}
SMALL: dict[str, Any] = {"n_tokens": 300, "context_size": 32}
CONTENT = bytes(range(256)) * 800


@dataclass
class Writer:
    """Something that writes, and what is there afterwards: the new or the old state, or nothing,
    but never half."""

    work: Callable[[], Awaitable[list[str]]]
    left: Callable[[], Any]
    clear: Callable[[], None] = lambda: None


class Disk:
    """The preloaded library: operations below a folder fail from the nth on."""

    def __init__(self, folder: Path, error: int) -> None:
        self._library, self._folder, self._error = ctypes.CDLL(None), folder, error

    def arm(self, first: int, last: int) -> None:
        self._library.bad_disk_arm(
            os.fsencode(self._folder),
            ctypes.c_long(first),
            ctypes.c_long(last),
            ctypes.c_int(self._error),
        )

    def disarm(self) -> int:
        """How many operations there were."""
        self._library.bad_disk_arm(b"", ctypes.c_long(0), ctypes.c_long(0), ctypes.c_int(0))
        return self._library.bad_disk_last()


def removed(place: Path) -> Callable[[], None]:
    return lambda: shutil.rmtree(place, ignore_errors=True)


def in_core(work: Callable[[], Any]) -> Callable[[], Awaitable[list[str]]]:
    async def run() -> list[str]:
        return raised(work)

    return run


def by_tool(state: AppState, tool: str, **arguments: Any) -> Callable[[], Awaitable[list[str]]]:
    return lambda: said(state, tool, **arguments)


def hash_at(place: Path) -> str | None:
    """Of an SAE that is whole; None where none is."""
    try:
        return load_sae(place, device="cpu").weights_hash
    except SaescopeError:
        return None


def writers(
    state: AppState, sae: str, result_id: str, *, folder: Path, url: str
) -> dict[str, Writer]:
    loaded = state.saes[sae]
    model: Any = loaded.model
    text, openai = folder.parent / "text.txt", folder.parent / "openai"
    text.write_text("The old man went to the sea. " * 400)
    topk = {"k": 4, "postact_fn": "ReLU"}
    file = openai / "resid_post_mlp_v5_32k" / "8.pt"
    write_openai(file, random_weights(4), "TopK", activation_state_dict=topk)
    sizes = {"training_tokens": 512, "batch_size": 128, "d_sae": 64, "k": 4, "context_size": 32}
    config = train_config(model, HOOK, dataset=str(text), checkpoint_every_s=1, **sizes)
    index = lambda: ss.index_features(model, loaded.sae, str(text), **SMALL)  # noqa: E731
    etag = hashlib.sha256(CONTENT).hexdigest()
    blobs, published = folder / "hub" / "blobs", folder / "published"
    report = folder / "report"
    blobs.mkdir(parents=True)

    def download() -> None:
        size = len(CONTENT)
        fetch(url, "the file", into=blobs, etag=etag, size=size, say=lambda message: None)

    def labels() -> list[str]:
        return [each.text for each in LabelStore().of(loaded.weights_hash, 1)]

    def indexed() -> int | None:
        found = find_index(loaded.sae, model)
        return None if found is None else found.manifest.n_tokens

    def evaluated() -> float | None:
        found = recall(loaded.weights_hash)
        return None if found is None else found.l0

    more = {"sae": sae, "path": str(published), "dry_run": False}
    return {
        "label": Writer(by_tool(state, "label_feature", sae=sae, feature=1, text="new"), labels),
        "publish": Writer(
            by_tool(state, "publish_sae", **more),
            lambda: hash_at(published) if published.exists() else None,
            removed(published),
        ),
        "report": Writer(
            by_tool(state, "export_report", path=str(report), results=[result_id]),
            lambda: sorted(file.name for file in report.glob("*")) or None,
            removed(report),
        ),
        "evaluate": Writer(by_tool(state, "evaluate_sae", sae=sae, n_tokens=300), evaluated),
        "index": Writer(in_core(index), indexed),
        "train": Writer(
            in_core(lambda: train(config, model=model, folder=folder / "run")),
            lambda: latest(folder / "run") is not None or None,  # any that is whole
            removed(folder / "run"),
        ),
        "convert": Writer(
            in_core(lambda: load_sae(file, device="cpu")),
            lambda: hash_at(file),
            removed(folder / "converted"),
        ),
        "download": Writer(
            in_core(download),
            lambda: (blobs / etag).read_bytes() if (blobs / etag).exists() else None,
            lambda: (blobs / etag).unlink(missing_ok=True),
        ),
    }


async def failing(writer: Writer, disk: Disk, moment: tuple[int, int], folder: Path) -> str:
    """What was wrong when these operations failed; "" if nothing was."""
    before = writer.left()
    disk.arm(*moment)
    try:
        code, message = await writer.work()
    except OSError as error:
        code, message = "OSError", str(error)
    finally:
        disk.disarm()
    after = writer.left()
    again = await writer.work()
    whole = writer.left()
    writer.clear()
    if code != "done" and (code not in CODES or str(folder) not in message):
        return f"{code}: {message}"
    if again[0] not in ("done", "ALREADY_EXISTS", "REPORT_EXISTS"):
        return f"{code}: {message}; and again: {again}"
    if after not in (before, whole) or (code == "done" and after != whole):
        return f"{code}: {message}; left {after!r:.80} of {before!r:.80} or {whole!r:.80}"
    return ""


async def main(folder: Path, error: int, seed: str, most: int) -> dict[str, Any]:
    roots: dict[str, Any] = {"read_roots": (folder.parent, GLASS.parent), "write_roots": (folder,)}
    state, hub = AppState(Settings(**roots, offline=True)), FakeHub()
    hub.add("owner/tiny", {"file.bin": CONTENT})
    path = save_random_sae(folder.parent / "sae")
    sae = (await call(state, "load_sae", path=str(path), model=str(GLASS), wait_s=55.0))["sae"]
    rng, disk, told = random.Random(seed), Disk(folder, error), dict[str, Any]()
    url = f"{hub.url}/owner/tiny/resolve/main/file.bin"
    result_id = (await call(state, "top_features", sae=sae, text="The sea"))["result_id"]
    state.keeper.settle()
    for name, writer in writers(state, sae, result_id, folder=folder, url=url).items():
        n = 0
        for _ in range(2):  # the first imports, and makes what the others find
            disk.arm(sys.maxsize, sys.maxsize)
            outcome = await writer.work()
            n = disk.disarm()
            assert outcome[0] == "done", (name, outcome)
            writer.left()
            writer.clear()
        chosen = sorted(rng.sample(range(1, n + 1), min(most, n)))
        moments = [(first, rng.choice([first, sys.maxsize])) for first in chosen]
        wrong = {str(at): await failing(writer, disk, at, folder) for at in moments}
        told[name] = {"n": len(moments), "wrong": {at: why for at, why in wrong.items() if why}}
    hub.close()
    state.close()
    return told


if __name__ == "__main__":
    place = Path(sys.argv[1])
    os.environ["SAESCOPE_HOME"] = str(place)
    number = getattr(errno, sys.argv[2])

    def set_attribute(owner: object, name: str, value: object) -> None:
        setattr(owner, name, value)

    with pickles_allowed(os.environ.__setitem__, set_attribute):
        answer = asyncio.run(main(place, number, sys.argv[3], int(sys.argv[4])))
    sys.stdout.write(json.dumps(answer) + "\n")
