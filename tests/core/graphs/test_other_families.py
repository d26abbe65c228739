"""Families whose forward pass has a form of its own: positions of all rows on one axis, views of
what they are given, logits that are scaled or have a bias."""

from pathlib import Path

import pytest
import torch
from tests.attack.families import build
from tests.core.graphs.made import IDS, as_tokens, transcoders
from transformers import AutoModelForCausalLM, AutoTokenizer

from saescope.graphs import trace_circuit
from saescope.models import load_model
from saescope.records.graph import GraphSettings

SETTINGS = GraphSettings(most_targets=2, n_controls=2, most_measured=8)


@pytest.mark.parametrize("family", ["opt", "falcon_serial", "granite", "cohere", "phi"])
def test_a_graph_is_proved_and_its_value_is_the_demeaned_logit_of_transformers(
    family: str, tmp_path: Path, glass_dir: Path
) -> None:
    folder = build(family, tmp_path / family, AutoTokenizer.from_pretrained(glass_dir))
    model = load_model(folder, device="cpu")
    graph = trace_circuit(model, transcoders(model), as_tokens(), settings=SETTINGS)
    hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        logits = hf(IDS[None]).logits[0, -1].double()
    for target in graph.targets:
        want = float(logits[target.token] - logits.mean())
        assert target.value == pytest.approx(want, rel=1e-4)
    assert graph.proof and graph.proof.n_nodes and graph.proof.linear_off < 1e-5


@pytest.mark.parametrize("family", ["granite", "cohere"])
def test_edges_into_a_target_are_parts_of_the_scaled_logit(
    family: str, tmp_path: Path, glass_dir: Path
) -> None:
    """What the last transcoder's features write goes through the last norm alone: with all of it
    gone while its scale is held, the logit differs by the sum of their edges."""
    folder = build(family, tmp_path / family, AutoTokenizer.from_pretrained(glass_dir))
    model = load_model(folder, device="cpu")
    sae = transcoders(model)[-1]
    settings = GraphSettings(most_targets=1, node_share=1.0, edge_share=1.0, most_measured=0)
    graph = trace_circuit(model, [sae], as_tokens(), settings=settings)
    (target,), site = graph.targets, sae.cfg.metadata.hook_name_out or ""
    last = {n.id: n for n in graph.nodes if n.kind == "feature" and n.pos == len(IDS) - 1}
    lost = sum(edge.weight for edge in graph.edges if edge.source in last)
    rows = [n.activation * sae.W_dec[n.feature] for n in last.values() if n.activation]
    written, kept = torch.stack(rows).sum(0), {}

    def keep(x: torch.Tensor, hook: object) -> None:
        kept["scale"] = x.clone()

    def take(x: torch.Tensor, hook: object) -> torch.Tensor:
        changed = x.clone()
        changed[0, -1] -= written
        return changed

    with torch.no_grad():
        with model.hooked([("ln_final.hook_scale", keep)]):
            before = model.forward(IDS[None], last=1)[0][0, -1].double()
        held = ("ln_final.hook_scale", lambda x, hook: kept["scale"])
        with model.hooked([(site, take), held]):
            after = model.forward(IDS[None], last=1)[0][0, -1].double()
    change = (before - after)[target.token] - (before - after).mean()
    assert float(change) == pytest.approx(lost, rel=1e-3)
