"""Scripted players: one with an activation probe alone, one with the server's tools."""

import os
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from mcp import Client

from agent_evals.play import settled
from agent_evals.scientist.lab import Lab, lab_of
from agent_evals.scientist.scores import area_under
from agent_evals.scientist.wish import Answer, Ground, Scientist, Wish
from agent_evals.transcript import Call
from saescope.names import home as saescope_home
from saescope.verdicts import Choice
from saescope_mcp.app import build_server
from saescope_mcp.settings import Settings

N_RETURNED = 64
"""Features that the probe gives back for each text."""
LEAST_AREA = 0.95
"""Below this, the published gate, a player says that no feature is good enough."""


async def probe(ground: Ground, wishes: list[Wish]) -> list[Answer]:
    """Names the feature that separates the shown texts best, among those that the probe returns for
    a positive; of equals, the one that fires hardest for its size."""
    lab = lab_of(ground)
    return [_by_probe(lab, wish) for wish in wishes]


def _by_probe(lab: Lab, wish: Wish) -> Answer:
    positives, others = lab.pooled(wish.shown.positives), lab.pooled(wish.shown.others)
    n = min(N_RETURNED, positives.shape[1])
    returned = set(positives.topk(n, dim=1).indices.flatten().tolist())
    best = (-1.0, -1.0, -1)
    for feature in sorted(returned):
        high, low = positives[:, feature].tolist(), others[:, feature].tolist()
        if any(high):
            contrast = (mean(high) - mean(low)) / mean(high)
            best = max(best, (area_under(high, low), contrast, feature))
    area, _, feature = best
    why = f"AUROC {area:.3f} on the shown texts"
    return Answer(feature if area >= LEAST_AREA else None, why)


N_STEERED_TOKENS = 16


class Bench:
    """The real server with the SAE loaded, and a list of what was called."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.sae = ""
        self.calls: list[Call] = []

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The settled result.

        Raises:
            RuntimeError: the call was refused.
        """
        said = arguments if tool == "load_sae" else {"sae": self.sae, **arguments}
        result = await self.client.call_tool(tool, said)
        document = await settled(self.client, tool, dict(result.structured_content or {}))
        self.calls.append(Call(tool, said, document, bool(result.is_error)))
        if result.is_error:
            raise RuntimeError(f"{tool} was refused: {document}")
        return document


@contextmanager
def own_home() -> Generator[Path]:
    """A SAESCOPE_HOME that goes afterwards, in which the prepared models are found."""
    before, models = os.environ.get("SAESCOPE_HOME"), (saescope_home() / "models").absolute()
    # A server that is closing may still keep a result there.
    with tempfile.TemporaryDirectory(
        prefix="saescope-scientist-", ignore_cleanup_errors=True
    ) as folder:
        (Path(folder) / "models").symlink_to(models, target_is_directory=True)
        os.environ["SAESCOPE_HOME"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("SAESCOPE_HOME")
            os.environ.update({"SAESCOPE_HOME": before} if before is not None else {})


@asynccontextmanager
async def bench_on(ground: Ground) -> AsyncGenerator[Bench]:
    """A server with a home of its own, which sees no more than the model and the SAE."""
    with own_home():
        async with Client(build_server(settings_of(ground))) as client:
            bench = Bench(client)
            loaded = await bench.call("load_sae", **where(ground))
            bench.sae = loaded["sae"]
            yield bench


def settings_of(ground: Ground) -> Settings:
    """What a server for this ground may read."""
    here = [place for place in (ground.model, ground.sae) if Path(place).exists()]
    return Settings(read_roots=tuple(map(Path, here)), offline=not ground.release)


def where(ground: Ground) -> dict[str, str]:
    """The arguments of load_sae."""
    place = {"release": ground.release, "sae_id": str(ground.sae)}
    return {**(place if ground.release else {"path": str(ground.sae)}), "model": str(ground.model)}


async def tools(ground: Ground, wishes: list[Wish]) -> list[Answer]:
    """Asks the server to choose by texts and by pushes, then how strongly to push what it chose; of
    a group, of which one feature is to be named, the first, where that is good by itself."""
    async with bench_on(ground) as bench:
        return [await _by_tools(bench, wish) for wish in wishes]


async def _by_tools(bench: Bench, wish: Wish) -> Answer:
    bench.calls = []
    found = await bench.call(
        "find_features",
        texts=wish.shown.positives,
        against=wish.shown.others,
        causes=wish.tokens,
        prompts=wish.prompts,
        k=1,
    )
    first, why = (found["features"] or [{}])[0], found["summary"]
    is_none = found["choice"]["verdict"] == Choice.NONE
    if is_none or not (first["causes"] and first["clean"]):
        return Answer(None, why, bench.calls)
    feature = first["feature"]
    steered = await bench.call(
        "steer_search",
        features=[{"feature": feature}],
        concept=wish.tokens,
        prompts=wish.prompts,
        max_new_tokens=N_STEERED_TOKENS,
    )
    why = f"{why} {steered['summary']}"
    return Answer(None if steered["strength"] is None else feature, why, bench.calls)


SCRIPTED: dict[str, Scientist] = {"probe": probe, "tools": tools}
