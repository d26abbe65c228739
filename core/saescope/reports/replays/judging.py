"""Circuits, cards and evaluations as code."""

from typing import Any

from saescope.ledger import KeptEntry
from saescope.records.card import FeatureFacts
from saescope.records.evaluation import Evaluation
from saescope.records.graph import Graph
from saescope.reports.code import call, literal
from saescope.reports.desk import Desk, handles_of
from saescope.reports.picking import picked
from saescope.reports.replays.replay import (
    CannotReplayError,
    Replay,
    dataset_of,
    found,
    given,
    options,
    stored,
)

N_NODES = 40
"""Nodes of a graph that a document has, the strongest."""
N_PROMOTED, N_RELATED = 8, 4
"""Tokens, and features beside it, that a document has of a card."""
_SETTINGS: dict[str, Any] = {"max_features": 2000, "n_measured": 100, "node_share": 0.8, "seed": 0}
_SHOWN = ("targets", "scores", "kept_scores", "untraced", "proof")


def trace_circuit(entry: KeptEntry, desk: Desk) -> Replay:
    """A graph, as far as a document has it."""
    asked, handles = entry.arguments, handles_of(entry)
    chat = asked.get("chat", False)
    if desk.is_set(handles[0]):
        model, saes = desk.model(entry, handles[0]), desk.sae_set(entry, handles[0])
        bos = "None" if chat else f"{saes}.members[0].cfg.metadata.prepend_bos"
        named = {"prepend_bos": bos} | ({"chat": "True"} if chat else {})
        tokens = call(f"{model}.tokenize", [desk.text(asked["prompt"])], named)
        code_given = [model, saes, tokens]
    else:
        tokens = desk.tokens(entry, handles, asked["prompt"], chat=chat)
        code_given = [desk.model(entry, handles[0]), desk.saes(entry, handles), tokens]
    settings = options(entry, _SETTINGS, {"n_measured": "most_measured"})
    named = given(entry, "targets", "against")
    named |= {"settings": call("ss.GraphSettings", [], settings)} if settings else {}
    code = found("ss.trace_circuit", code_given, named)
    code += f"\nnodes = sorted(found.nodes, key=lambda node: -node.influence)[:{N_NODES}]"
    kept = picked(entry.document, Graph, places={})
    kept = {name: kept[name] for name in (*_SHOWN, "nodes")}
    shown = ", ".join(f'"{name}": found.{name}' for name in _SHOWN)
    return Replay(code, kept, f'{{{shown}, "nodes": nodes}}')


def describe_feature(entry: KeptEntry, desk: Desk) -> Replay:
    """A card, but for its labels."""
    asked, (handle, *_) = entry.arguments, handles_of(entry)
    if asked.get("features"):
        raise CannotReplayError("it has short cards of several features: describe each by itself")
    code_given = [desk.model(entry, handle), desk.sae(entry, handle), literal(asked["feature"])]
    named = {"index": desk.index(entry, handle)} | options(entry, {"n_examples": 5})
    code = found("ss.feature_card", code_given, named)
    lists = ("promotes", "suppresses")
    kept = stored(entry, FeatureFacts, without={"corpus"})
    kept |= {name: entry.document[name] for name in lists}
    tokens = [f'"{name}": [row.token for row in found.{name}[:{N_PROMOTED}]]' for name in lists]
    near = [f'"{name}": found.{name}[:{N_RELATED}]' for name in ("neighbours", "cofiring")]
    return Replay(code, kept, "{**vars(found), " + ", ".join([*tokens, *near]) + "}")


def evaluate_sae(entry: KeptEntry, desk: Desk) -> Replay:
    """An evaluation on a data set that is still there."""
    asked, (handle, *_) = entry.arguments, handles_of(entry)
    code_given = [desk.model(entry, handle), desk.sae(entry, handle)]
    if asked["dataset"] != "embedded":
        code_given.append(dataset_of(entry, desk))
    named = options(entry, {"n_tokens": 20_000, "baselines": True, "seed": 0})
    kept = stored(entry, Evaluation, without={"verdict", "dataset"})
    # What only a detailed reply has is empty in a short one.
    kept = {name: value for name, value in kept.items() if value not in ([], {})}
    return Replay(found("ss.evaluate", code_given, named), kept)
