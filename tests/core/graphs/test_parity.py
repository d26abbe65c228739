"""Graphs beside circuit-tracer 0.5.0's of the same files (scripts/make_circuit_tracer_references.py
made them): edges, influence, what is kept, scores."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from saescope.graphs.members import HeldMember, Members, held
from saescope.graphs.targets import choose_targets
from saescope.graphs.trace import Traced, trace
from saescope.load import load_sae
from saescope.models import LanguageModel, Tokens, load_model
from saescope.ops import SparseActs
from saescope.saes import StandardConfig, StandardSAE
from saescope.saes.base import SAEMetadata

DATA = Path(__file__).parent.parent.parent / "data"
OURS = DATA / "circuit_tracer"
CASES = ("gpt2_relu", "gpt2_clt", "llama_skip", "gemma2_jumprelu")


@dataclass(frozen=True, eq=False)
class CrossLayerMember(HeldMember):
    """One layer of a cross-layer transcoder, which writes there and at every later one."""

    decoders: Float[Tensor, "d_sae n_written d_out"]
    biases: Float[Tensor, "n_layers d_out"]

    @property
    def write_hooks(self) -> Mapping[int, str]:
        n = self.decoders.shape[1]
        return {to: f"blocks.{to}.hook_mlp_out" for to in range(self.index, self.index + n)}

    def write_rows(self, features: Int[Tensor, " n"], to: int) -> Float[Tensor, "n d_out"]:
        return self.decoders[features, to - self.index]

    def bias(self, to: int) -> Float[Tensor, " d_out"]:
        return self.biases[to]


@dataclass(frozen=True, eq=False)
class CrossLayerSet:
    """A cross-layer transcoder in memory."""

    members: tuple[CrossLayerMember, ...]
    kind: str = "clt"

    def encode(self, xs: Mapping[int, Tensor]) -> list[SparseActs]:
        return [member.encode(xs[member.index]) for member in self.members]


def cross_layer_set(folder: Path, n_layers: int) -> CrossLayerSet:
    parts = [
        load_file(folder / f"W_enc_{i}.safetensors") | load_file(folder / f"W_dec_{i}.safetensors")
        for i in range(n_layers)
    ]
    biases = torch.stack([part[f"b_dec_{i}"] for i, part in enumerate(parts)])
    members = list[CrossLayerMember]()
    for i, part in enumerate(parts):
        d_sae, d_in = part[f"W_enc_{i}"].shape
        at = f"blocks.{i}.hook_resid_mid", f"blocks.{i}.hook_mlp_out"
        cfg = StandardConfig(
            d_in=d_in,
            d_sae=d_sae,
            d_out=d_in,
            dtype="float32",
            apply_b_dec_to_input=False,
            transcoder=True,
            metadata=SAEMetadata(hook_name=at[0], hook_name_out=at[1]),
        )
        tensors = {
            "W_enc": part[f"W_enc_{i}"].T.contiguous(),
            "b_enc": part[f"b_enc_{i}"],
            "b_dec": part[f"b_dec_{i}"],
            "W_dec": part[f"W_dec_{i}"][:, 0].contiguous(),
        }
        sae = StandardSAE(cfg, tensors)
        members.append(CrossLayerMember(i, i, sae, part[f"W_dec_{i}"], biases))
    return CrossLayerSet(tuple(members))


def set_of(case: str, n_layers: int) -> Members:
    if case == "gpt2_clt":
        return cross_layer_set(OURS / case, n_layers)
    files = [OURS / case / f"layer_{i}.safetensors" for i in range(n_layers)]
    return held([load_sae(file, device="cpu") for file in files], range(n_layers))


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
    tokens = Tokens(ids, torch.zeros_like(ids, dtype=torch.bool), tuple(map(str, ids)), True)
    targets = choose_targets(model, model.forward(model.batch(ids))[0][0, -1])
    return trace(model, set_of(case, model.n_layers), tokens, targets)


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
