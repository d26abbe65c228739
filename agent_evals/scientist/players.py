"""Scripted players: one with an activation probe alone, one with the server's tools."""

import os
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
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


LEAST_NATS = 1.5
"""A feature that raises the concept by less, on average of the prompts, is not named."""
MOST_KL = 2.0
MOST_REPETITION = 0.4
LOUDEST_OTHER = 0.15
"""How strongly a named feature may fire on the other texts, for its level on the positives: half of
these are hard negatives, of which a feature of two topics fires on half."""
LEAST_SCORE = 2.0
"""Nats per nat of KL, at a KL of half a nat, below which a push is not tried in a text."""
N_STEERED = 1
"""Candidates that are steered with: one costs as much as six searches."""


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
    with tempfile.TemporaryDirectory(prefix="saescope-scientist-") as folder:
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


Pushes = Callable[[Bench, Wish], Awaitable[dict[int, float]]]
"""The features that are said to write the concept, best first, each with a strength to begin
with."""


async def by_tokens(bench: Bench, wish: Wish) -> dict[int, float]:
    """What writes the concept's tokens by the decoder, and pushes them."""
    found = await bench.call("find_features", tokens=wish.tokens, k=20, response_format="detailed")
    return {row["feature"]: 1.0 for row in found["features"] if row["writes"]}


async def by_causes(bench: Bench, wish: Wish) -> dict[int, float]:
    """What the causal search ranks first of all features, by effect per nat of KL. Its own word,
    `causes`, is not asked for: on a narrow model it is held back from features that do write,
    because the best of as many random directions come close."""
    found = await bench.call(
        "find_features",
        causes=wish.tokens,
        prompts=wish.prompts,
        k=20,
        response_format="detailed",
    )
    pushed = [row for row in found["features"] if row["strength"] and row["causes"] is not None]
    pushed.sort(key=lambda row: -row["score"])
    return {row["feature"]: row["strength"] for row in pushed if row["score"] >= LEAST_SCORE}


def with_tools(pushes: Pushes) -> Scientist:
    """A player that separates, asks what writes, joins the two, steers with the best of them, and
    says "none" where nothing is left."""

    async def play(ground: Ground, wishes: list[Wish]) -> list[Answer]:
        async with bench_on(ground) as bench:
            return [await _by_tools(bench, wish, pushes) for wish in wishes]

    return play


async def _by_tools(bench: Bench, wish: Wish, pushes: Pushes) -> Answer:
    bench.calls = []
    separating = await _separating(bench, wish)
    writing = await pushes(bench, wish)
    both = [feature for feature in writing if feature in separating]
    steered: dict[int, float] = {}
    for feature in both[:N_STEERED]:
        if (nats := await _steered(bench, wish, feature, writing[feature])) is not None:
            steered[feature] = nats
    told = f"{len(separating)} separate, {len(writing)} write, {len(both)} do both"
    if not steered:
        return Answer(None, f"{told}, none steers", bench.calls)
    best = max(steered, key=lambda feature: steered[feature])
    return Answer(best, f"{told}; steering {steered[best]:+.2f} nats", bench.calls)


async def _separating(bench: Bench, wish: Wish) -> set[int]:
    """Features that fire on the positives and hardly on the other texts."""
    found = await bench.call(
        "find_features",
        texts=wish.shown.positives,
        against=wish.shown.others,
        unconfirmed=True,
        k=40,
        response_format="detailed",
    )
    return {
        row["feature"]
        for row in found["features"]
        if row["side"] == "texts"
        and row["held_out"]["auc"] >= LEAST_AREA
        and row["levels"][1]["mean"] <= LOUDEST_OTHER * row["levels"][0]["mean"]
    }


async def _steered(bench: Bench, wish: Wish, feature: int, strength: float) -> float | None:
    """The largest rise of the concept at a strength that leaves the text whole; null: none."""
    found = await bench.call(
        "steer_generate",
        features=[{"feature": feature, "strength": 1.0}],
        strengths=[round(strength * factor, 3) for factor in (1, 2)],
        prompts=wish.prompts,
        concept_tokens=wish.tokens,
        max_new_tokens=16,
        response_format="detailed",
    )
    good = [
        row["concept_logprob"]
        for row in found["table"]
        if row["verdict"] != "degenerate"
        and row["kl"] <= MOST_KL
        and row["repetition"] <= MOST_REPETITION
        and row["concept_logprob"] >= LEAST_NATS
    ]
    return max(good, default=None)


SCRIPTED: dict[str, Scientist] = {
    "probe": probe,
    "tools-tokens": with_tools(by_tokens),
    "tools": with_tools(by_causes),
}
