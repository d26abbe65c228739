"""What a proof says of a graph, against plain hooks, dense sums and planted truth."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.core.graphs import planted
from tests.core.graphs.made import IDS, as_tokens, dense, residual, set_of, traced, transcoders
from tests.core.oracle import Family
from torch import Tensor

from saescope.errors import ArgumentError, ConfigError, ModelError
from saescope.graphs import trace_circuit
from saescope.graphs.live import run_live, without, without_all
from saescope.graphs.members import held
from saescope.graphs.proof import is_confirmed, predict, prove
from saescope.graphs.reading import read_graph
from saescope.graphs.targets import choose_targets
from saescope.graphs.trace import Traced
from saescope.hooks import edit_activations
from saescope.models import LanguageModel, load_model
from saescope.records.graph import GraphNode, GraphSettings
from saescope.saes import StandardSAE
from saescope.steering import FeatureEdit, intervene


def lost(graph: Traced, node: GraphNode) -> Callable[[Tensor], Tensor]:
    """An edit at the node's site that takes away what it writes."""
    member, layer = graph.clean.members[node.layer or 0], node.layer or 0

    def edit(x: Tensor) -> Tensor:
        gone = torch.zeros_like(x)
        if node.kind == "error":
            gone[0, node.pos] = graph.clean.errors[layer][node.pos]
        else:
            row = member.write_rows(torch.tensor([node.feature]), layer)[0]
            gone[0, node.pos] = (node.activation or 0.0) * row
        return x - gone

    return edit


def test_the_effect_of_a_node_is_that_of_a_plain_hook(family: Family) -> None:
    graph = traced(family.model, set_of(family.model))
    before = _demeaned(family.model, graph)
    tested = [node for node in prove(graph).nodes if node.effect]
    assert {node.kind for node in tested} == {"feature", "error"}
    for node in tested[:4] + tested[-2:]:
        with edit_activations(
            family.model, {f"blocks.{node.layer}.hook_mlp_out": lost(graph, node)}
        ):
            after = _demeaned(family.model, graph)
        assert node.effect and node.effect.free == pytest.approx(before - after, abs=2e-4)


def _demeaned(model: LanguageModel, graph: Traced) -> float:
    seen: list[Tensor] = []
    model.run(
        model.batch(IDS), [("unembed.hook_in", lambda x, hook: seen.append(x[0, -1].double()))]
    )
    return float(graph.targets[0].direction.double() @ seen[0])


def test_with_attention_held_a_head_mixes_positions_as_in_the_clean_run(gpt2: Family) -> None:
    graph = traced(gpt2.model, set_of(gpt2.model))
    place = graph.store.columns.place(int(graph.kept.columns[0]))
    pattern = graph.clean.constants["blocks.2.attn.hook_pattern"][0]
    for hold in (True, False):
        seen: dict[str, Tensor] = {}
        watched = {
            f"blocks.2.attn.hook_{name}": partial(seen.setdefault, name) for name in ("v", "z")
        }
        with edit_activations(gpt2.model, watched):
            run_live(graph.clean, 1, without(graph.store.columns, [place]), hold_attention=hold)
        mixed = torch.einsum("hqk,khd->qhd", pattern, seen["v"].reshape(8, 4, 8))
        assert torch.allclose(seen["z"].reshape(8, 4, 8), mixed, atol=1e-5) == hold


def test_attention_is_held_too_where_the_pattern_can_be_seen_but_not_held(
    tmp_path: Path, glass_dir: Path
) -> None:
    """GPT-Neo's attention runs inside transformers."""
    from tests.attack.families import build
    from transformers import AutoTokenizer

    folder = build("gpt_neo", tmp_path / "neo", AutoTokenizer.from_pretrained(glass_dir))
    model = load_model(folder, device="cpu")
    graph = traced(model, set_of(model))
    place = next(
        place
        for column in graph.kept.columns.tolist()
        if (place := graph.store.columns.place(column)).kind == "error" and place.owner == 0
    )
    name = "blocks.1.attn.hook_pattern"
    for hold in (True, False):
        seen: list[Tensor] = []
        watch = [(name, lambda x, hook, seen=seen: seen.append(x.detach().clone()))]
        with model.hooked(watch):
            run_live(graph.clean, 1, without(graph.store.columns, [place]), hold_attention=hold)
        same = torch.allclose(seen[0], graph.clean.constants[name], atol=1e-6)
        assert same == hold


def test_a_prediction_sums_all_paths(gpt2: Family) -> None:
    """Against a loop over nodes in reading order: what a feature loses of its activation, each of
    its edges loses."""
    graph = traced(gpt2.model, set_of(gpt2.model))
    matrix, columns = dense(graph), graph.store.columns
    values = torch.cat([acts.values for acts in graph.clean.acts]).double()
    sources = graph.kept.columns[graph.kept.columns < columns.tokens_at][:5].tolist()
    found = predict(graph, sources, range(columns.n + len(graph.targets)))
    for i, source in enumerate(sources):
        share = torch.zeros(columns.n, dtype=torch.float64)
        share[source] = 1
        for name in range(columns.n_features):
            if name != source:
                change = float(matrix[name, : columns.n] @ share)
                share[name] = min(1.0, change / float(values[name]))
                assert float(found[name, i]) == pytest.approx(change, abs=1e-6)
        for k in range(len(graph.targets)):
            want = float(matrix[columns.n + k, : columns.n] @ share)
            assert float(found[columns.n + k, i]) == pytest.approx(want, abs=1e-6)


def test_features_ablated_together_lose_what_they_have_in_that_run(llama: Family) -> None:
    """Against hooks that encode what arrives, set the chosen features to zero, and write the
    difference."""
    graph = traced(llama.model, set_of(llama.model))
    columns, clean, model = graph.store.columns, graph.clean, llama.model
    chosen = torch.arange(0, columns.n_features, 3)
    edits: dict[str, Callable[[Tensor], Tensor]] = {}
    seen: dict[int, Tensor] = {}
    for i, member in enumerate(clean.members):
        own = chosen[(chosen >= columns.starts[i]) & (chosen < columns.starts[i + 1])]
        own = own - columns.starts[i]
        at = clean.acts[i].positions[own], clean.acts[i].features[own]

        def read(x: Tensor, i: int = i) -> Tensor:
            seen[i] = x[0]
            return x

        def write(x: Tensor, i: int = i, at: tuple[Tensor, Tensor] = at) -> Tensor:
            acts = clean.members[i].encode(seen[i]).to_dense()
            gone = torch.zeros_like(acts)
            gone[at] = acts[at]
            rows = clean.members[i].write_rows(torch.arange(acts.shape[1]), i)
            return x - (gone @ rows)[None]

        edits |= {member.read_hook: read, member.write_hooks[i]: write}
    with edit_activations(model, edits):
        want = model.forward(model.batch(IDS))[0][0, -1]
    live = run_live(clean, 2, without_all(columns, [chosen, chosen[:0]]), hold_attention=False)
    assert torch.allclose(live.logits[0], want, atol=1e-4)
    assert torch.allclose(live.logits[1], model.forward(model.batch(IDS))[0][0, -1], atol=1e-4)


@pytest.mark.parametrize(
    ("predicted", "measured", "confirmed"),
    [
        (1, 0.5, True),
        (1, 2, True),
        (1, 0.49, False),
        (1, 2.1, False),
        (1, -1, False),
        (0, 0, False),
    ],
)
def test_confirmed_is_half_to_twice_with_the_sign(
    predicted: float, measured: float, confirmed: bool
) -> None:
    assert is_confirmed(predicted, measured) == confirmed


def test_the_frozen_pass_without_a_source_is_its_edges(family: Family) -> None:
    proof = prove(traced(family.model, set_of(family.model, skip=True))).proof
    assert proof and proof.linear_off < 1e-5


@pytest.fixture(scope="module")
def capitals(tmp_path_factory: pytest.TempPathFactory, glass_dir: Path) -> LanguageModel:
    folder = planted.save(tmp_path_factory.mktemp("planted") / "capitals", glass_dir)
    return load_model(folder, device="cpu")


def test_a_planted_circuit_is_what_is_kept_and_every_edge_of_it_is_confirmed(
    capitals: LanguageModel,
) -> None:
    prompt = as_tokens(planted.PROMPT)
    graph = trace_circuit(capitals, planted.neurons(capitals), prompt, targets=[planted.ANSWER])
    assert {(edge.source, edge.target) for edge in graph.edges} == planted.TRUE_EDGES
    assert graph.proof and graph.proof.n_confirmed == graph.proof.n_edges == 2
    assert graph.proof.sufficiency.controls.outside
    assert abs(graph.proof.sufficiency.kept) < 0.01 < graph.proof.necessity.kept


def test_what_a_perfect_transcoder_explains_has_no_error(capitals: LanguageModel) -> None:
    prompt = as_tokens(planted.PROMPT)
    graph = trace_circuit(capitals, planted.neurons(capitals), prompt)
    assert graph.scores.replacement == pytest.approx(1, abs=1e-5)
    assert graph.scores.completeness == pytest.approx(1, abs=1e-5)
    assert not graph.warnings


def test_a_transcoder_that_sees_nothing_leaves_all_to_errors(llama: Family) -> None:
    saes = [
        StandardSAE(sae.cfg, sae.tensors() | {"b_enc": torch.full((40,), -100.0)})
        for sae in transcoders(llama.model)
    ]
    graph = trace_circuit(llama.model, held(llama.model, saes), as_tokens(), targets=[5])
    assert graph.n_active == 0 and all(node.kind != "feature" for node in graph.nodes)
    assert graph.scores.replacement < 0.5
    assert "ends in errors" in graph.warnings[0]


def test_a_difference_of_two_logits_is_one_target(llama: Family) -> None:
    of = set_of(llama.model)
    alone = [
        trace_circuit(
            llama.model, of, as_tokens(), targets=[token], settings=GraphSettings(most_measured=0)
        )
        for token in (5, 9)
    ]
    graph = trace_circuit(llama.model, of, as_tokens(), targets=[5], against=9)
    (target,) = graph.targets
    assert target.id == "o5-9" and target.weight == 1
    assert target.value == pytest.approx(
        alone[0].targets[0].value - alone[1].targets[0].value, abs=1e-4
    )


def test_sae_s_of_the_stream_are_traced_and_proved(llama: Family) -> None:
    graph = trace_circuit(llama.model, residual(llama.model, [0, 1]), as_tokens(), targets=[5])
    assert graph.kind == "residual" and {node.layer for node in graph.nodes} <= {0, 1, None}
    assert graph.proof and graph.proof.n_edges > 0


def test_progress_goes_once_through_rows_and_proof(llama: Family) -> None:
    told: list[float] = []
    prompt = as_tokens()
    settings = GraphSettings(most_targets=2, n_controls=1)
    trace_circuit(
        llama.model,
        set_of(llama.model),
        prompt,
        settings=settings,
        progress=lambda done, total: told.append(done / total),
    )
    assert told == sorted(told) and told[-1] == 1 and any(0 < at < 0.5 for at in told)


def test_the_model_is_as_before_after_a_graph(gpt2: Family) -> None:
    model = gpt2.model
    before, state = model.forward(model.batch(IDS))[0], model.bridge.state_dict()
    hooks = sum(len(point.fwd_hooks) for point in model.bridge.hook_dict.values())
    trace_circuit(model, set_of(model), as_tokens())
    assert torch.equal(model.forward(model.batch(IDS))[0], before)
    assert hooks == sum(len(point.fwd_hooks) for point in model.bridge.hook_dict.values())
    assert all(not value.requires_grad for value in state.values())


def test_what_cannot_be_traced_says_why(llama: Family) -> None:
    of = set_of(llama.model)
    with pytest.raises(ArgumentError, match="at least two tokens") as short:
        trace_circuit(llama.model, of, as_tokens(IDS[:1]))
    with pytest.raises(ArgumentError, match="one target") as two:
        trace_circuit(llama.model, of, as_tokens(), targets=[5, 6], against=7)
    with pytest.raises(ConfigError) as mixed:
        trace_circuit(
            llama.model, [transcoders(llama.model)[0], residual(llama.model, [1])[0]], as_tokens()
        )
    codes = [each.value.code for each in (short, two, mixed)]
    assert codes == ["PROMPT_TOO_SHORT", "ONE_TARGET_AGAINST", "GRAPH_UNSUPPORTED_SAE"]
    assert all(each.value.hint for each in (short, two, mixed))


def test_a_target_that_is_no_token_or_is_its_own_rival_is_refused(llama: Family) -> None:
    """An id below 0 would count from the end of the vocabulary."""
    model = llama.model
    of, likeliest = set_of(model), int(model.forward(model.batch(IDS), last=1)[0][0, -1].argmax())
    for targets, against in [([-1], None), ([model.d_vocab], None), ([5], -2)]:
        with pytest.raises(ArgumentError) as outside:
            trace_circuit(model, of, as_tokens(), targets=targets, against=against)
        assert outside.value.code == "TOKEN_OUT_OF_RANGE"
    with pytest.raises(ArgumentError, match="its difference to itself is 0") as itself:
        trace_circuit(model, of, as_tokens(), against=likeliest)
    assert itself.value.code == "ONE_TARGET_AGAINST" and itself.value.hint


def test_a_graph_that_keeps_no_node_to_ablate_proves_nothing(capitals: LanguageModel) -> None:
    """What a token without a fact owes most to is a token."""
    settings = GraphSettings(node_share=1e-9, n_controls=2)
    graph = trace_circuit(
        capitals,
        planted.neurons(capitals),
        as_tokens(planted.PROMPT),
        targets=[0],
        settings=settings,
    )
    assert {node.kind for node in graph.nodes} == {"token", "logit"}
    assert graph.proof and (graph.proof.n_nodes, graph.proof.n_edges) == (0, 0)
    assert "Measured: nothing." in read_graph(graph)


def test_a_target_without_any_probability_has_a_graph_all_the_same(llama: Family) -> None:
    model = llama.model
    logits = torch.zeros(model.d_vocab)
    logits[7] = -torch.inf
    (target,) = choose_targets(
        model, logits, named=[7], against=None, settings=GraphSettings(most_measured=0)
    )
    assert (target.prob, target.weight) == (0.0, 1.0)


def test_an_sae_in_the_middle_of_a_block_is_refused(llama: Family) -> None:
    """What stands there instead reaches the MLP alone; the stream goes on beside it."""
    (sae,) = residual(llama.model, [1])
    middle = sae.with_metadata(
        replace(sae.cfg.metadata, hook_name="blocks.1.hook_resid_mid", hook_name_out="")
    )
    with pytest.raises(ConfigError, match="does not end the stream") as raised:
        trace_circuit(llama.model, middle, as_tokens(), targets=[5])
    assert raised.value.code == "GRAPH_UNSUPPORTED_SAE" and raised.value.hint


def test_a_model_that_cannot_be_held_still_is_refused(tmp_path: Path, glass_dir: Path) -> None:
    """Jamba's state-space layers are no attention."""
    from tests.attack.families import build
    from transformers import AutoTokenizer

    folder = build("qwen3_next", tmp_path / "next", AutoTokenizer.from_pretrained(glass_dir))
    model = load_model(folder, device="cpu")
    with pytest.raises(ModelError, match="still not linear") as raised:
        trace_circuit(model, set_of(model), as_tokens())
    assert raised.value.code == "GRAPH_NOT_LINEAR" and "residual stream" in raised.value.hint


def test_what_a_node_loses_is_what_intervene_reports(gpt2: Family) -> None:
    """The log-probability, where edges and effects speak of a demeaned logit."""
    model, saes = gpt2.model, transcoders(gpt2.model)
    graph = prove(traced(model, held(model, saes)))
    tested = [node for node in graph.nodes if node.effect and node.sae is not None][:4]
    for node in tested:
        assert node.feature is not None and node.sae is not None and node.lost is not None
        edit = FeatureEdit(node.feature, mode="ablate", positions=(node.pos,), sae=node.sae)
        target = graph.targets[0].token
        done = intervene(model, saes, as_tokens(), [edit], target=target, n_controls=0)
        assert done.effect == done.delta_logprob == pytest.approx(-node.lost, abs=1e-4)
        assert done.delta_logit != done.delta_logprob
    assert any(abs(n.lost - n.effect.free) > 0.01 for n in tested if n.lost and n.effect)
    assert tested and all(node.lost is None for node in graph.nodes if node.kind == "token")
