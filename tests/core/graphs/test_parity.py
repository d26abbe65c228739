"""Graphs beside circuit-tracer 0.5.0's of the same files (scripts/make_circuit_tracer_references.py
made them): edges, influence, what is kept, scores."""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from tests.core.graphs.made import as_tokens
from torch import Tensor

from saescope.graphs.targets import choose_targets
from saescope.graphs.trace import Traced, trace
from saescope.models import LanguageModel, load_model
from saescope.records.graph import GraphSettings
from saescope.sets import load_set

DATA = Path(__file__).parent.parent.parent / "data"
OURS = DATA / "circuit_tracer"
CASES = ("gpt2_relu", "gpt2_clt", "llama_skip", "gemma2_jumprelu")


@dataclass(frozen=True)
class Both:
    """Our graph of a case, and theirs."""

    ours: Traced
    theirs: dict[str, Tensor]

    @property
    def n(self) -> int:
        """Sources: features, errors and tokens."""
        return self.ours.store.columns.n

    @cached_property
    def rows(self) -> Float[Tensor, "n_features_and_targets n_columns"]:
        """Our rows in full: features by column, then the targets."""
        columns = self.ours.store.columns
        out = torch.zeros(columns.n_features + len(self.ours.targets), columns.n)
        for reader, parts in self.ours.store.parts.items():
            for rows in parts:
                names = rows.targets + (columns.n_features if reader is None else 0)
                out[names[:, None], rows.columns.long()] = rows.weights
        return out


@pytest.fixture(scope="module", params=CASES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    case = request.param
    name = f"tiny-{case.partition('_')[0]}"
    folder = tmp_path_factory.mktemp("model") / name
    shutil.copytree(OURS / name, folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DATA / "glassllm-en" / file, folder)
    model, theirs = load_model(folder, device="cpu"), load_file(OURS / case / "graph.safetensors")
    return Both(graph_of(model, case, theirs["tokens"]), theirs)


def graph_of(model: LanguageModel, case: str, ids: Tensor) -> Traced:
    logits = model.forward(model.batch(ids))[0][0, -1]
    settings = GraphSettings()
    targets = choose_targets(model, logits, named=(), against=None, settings=settings)
    ours = load_set(OURS / case, device="cpu")
    return trace(model, ours, as_tokens(ids), targets, settings)


def test_the_same_features_are_active_as_strongly(both: Both) -> None:
    clean = both.ours.clean
    found = [
        (i, int(pos), int(feature))
        for i, acts in enumerate(clean.acts)
        for pos, feature in zip(acts.positions, acts.features, strict=True)
    ]
    order = sorted(range(len(found)), key=found.__getitem__)
    assert [found[i] for i in order] == [
        tuple(row) for row in both.theirs["active_features"].tolist()
    ]
    values = torch.cat([acts.values for acts in clean.acts])[order]
    torch.testing.assert_close(values, both.theirs["activation_values"], rtol=1e-4, atol=1e-6)
    assert min(pos for _, pos, _ in found) == 1, "position 0 has no features there"


def test_the_same_tokens_are_explained(both: Both) -> None:
    targets, theirs = both.ours.targets, both.theirs
    assert [target.token for target in targets] == theirs["logit_tokens"].tolist()
    probs = torch.tensor([target.prob for target in targets])
    torch.testing.assert_close(probs, theirs["logit_probabilities"], rtol=1e-4, atol=1e-7)


def test_every_edge_has_their_weight(both: Both) -> None:
    theirs = both.theirs["rows"][:, : both.n]
    assert both.rows.shape == theirs.shape
    assert not both.theirs["rows"][:, both.n :].any(), "logits have no outgoing edges"
    torch.testing.assert_close(both.rows, theirs, rtol=1e-3, atol=1e-5)


def test_every_node_has_their_influence(both: Both) -> None:
    torch.testing.assert_close(
        both.ours.influence.of.float(),
        both.theirs["node_influence"][: both.n],
        rtol=1e-3,
        atol=1e-6,
    )


def test_their_nodes_and_edges_are_kept(both: Both) -> None:
    kept, theirs = both.ours.kept, both.theirs
    assert kept.columns.tolist() == theirs["node_mask"][: both.n].nonzero()[:, 0].tolist()
    edges = zip(kept.edges.targets.tolist(), kept.edges.sources.tolist(), strict=True)
    assert set(edges) == {(t, s) for t, s in theirs["edges"].tolist()}


def test_the_scores_are_theirs(both: Both) -> None:
    found = both.ours.influence
    got = torch.tensor([found.replacement, found.completeness])
    torch.testing.assert_close(got, both.theirs["scores"], rtol=1e-4, atol=1e-6)
