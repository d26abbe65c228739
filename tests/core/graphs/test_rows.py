"""Edges of a graph are what sources supply in the frozen pass."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.core.graphs.made import (
    IDS,
    cross_layer,
    dense,
    residual,
    set_of,
    traced,
    transcoders,
)
from tests.core.oracle import Family
from torch import Tensor

from saescope.graphs.live import wrote
from saescope.graphs.members import held
from saescope.graphs.replacement import EMBED, FINAL, Clean, Pass, read_clean
from saescope.graphs.tape import Tape
from saescope.graphs.trace import Traced
from saescope.models import LanguageModel
from saescope.records.graph import GraphSettings
from saescope.saes import StandardSAE


def values(graph: Traced, passed: Pass) -> Tensor:
    """The pre-activation of every active feature, then every demeaned logit."""
    clean, found = graph.clean, list[Tensor]()
    for i, member in enumerate(clean.members):
        x, acts = clean.x(i, passed.read[member.read_hook]), clean.acts[i]
        pre = member.hidden_pre(x, torch.arange(member.cfg.d_sae))
        found.append(pre[acts.positions, acts.features])
    final = passed.read[FINAL][0, -1]
    found.append(torch.stack([target.direction @ final for target in graph.targets]))
    return torch.cat(found).double()


def plus(graph: Traced, column: int) -> Pass:
    """The frozen pass with one source's vector added once more."""
    clean, place = graph.clean, graph.store.columns.place(column)
    index = {site.hook_name: i for i, site in enumerate(clean.sites)}

    def added(hook_name: str, there: Tensor) -> Tensor:
        more = torch.zeros_like(there)
        if place.kind == "token" and hook_name == EMBED:
            more[:, place.pos] = there[:, place.pos]
        elif hook_name != EMBED and place.kind != "token":
            vector = wrote(clean, place, index[hook_name])
            if vector is not None:
                more[:, place.pos] = vector.reshape(more[0, place.pos].shape)
        return there + more

    return Pass(clean, 1, added)


def check_columns(graph: Traced, *, atol: float = 2e-5) -> None:
    """Adding a source changes every pre-activation and logit by its edge."""
    columns, matrix = graph.store.columns, dense(graph)
    read = [*range(columns.n_features), *range(columns.n, len(matrix))]
    before = values(graph, Pass(graph.clean, 1, lambda _, there: there))
    tried = [*range(0, columns.n_features, 11), *range(columns.n_features, columns.n, 3)]
    for column in tried:
        change = values(graph, plus(graph, column)) - before
        assert torch.allclose(change, matrix[read, column], rtol=0, atol=atol), column


def test_an_edge_is_what_its_source_supplies_in_the_frozen_pass(family: Family) -> None:
    check_columns(traced(family.model, set_of(family.model)))


@pytest.mark.parametrize("skip", [True])
def test_paths_through_a_skip_connection_are_in_the_edges(family: Family, skip: bool) -> None:
    check_columns(traced(family.model, set_of(family.model, skip=skip)))


def test_a_cross_layer_feature_writes_to_every_later_layer(gpt2: Family, llama: Family) -> None:
    for family in (gpt2, llama):
        check_columns(traced(family.model, cross_layer(family.model)))


def test_a_transcoder_for_some_layers_leaves_the_other_mlps_as_errors(llama: Family) -> None:
    graph = traced(llama.model, held(llama.model, transcoders(llama.model)[1:2]))
    assert [site.layer for site in graph.clean.sites] == [0, 1, 2]
    whole = graph.clean.there["blocks.0.hook_mlp_out"][0, 1:]
    assert torch.equal(graph.clean.errors[0][1:], whole)
    check_columns(graph)


def constant(graph: Traced) -> Tensor:
    """What is left of every pre-activation and logit when no source writes anything: biases, and
    position 0."""
    clean = graph.clean

    def nothing(hook_name: str, there: Tensor) -> Tensor:
        if hook_name == EMBED:
            return torch.zeros_like(there)
        at = [site.hook_name for site in clean.sites].index(hook_name)
        member, acts = clean.members[at], clean.acts[at]
        made = torch.zeros_like(there[0]).reshape(clean.n_pos, -1)
        for pos, feature, value in zip(
            acts.positions.tolist(), acts.features.tolist(), acts.values, strict=True
        ):
            made[pos] += value * member.write_rows(torch.tensor([feature]), at)[0]
        return there - (made + clean.errors[at]).reshape(there.shape)

    return values(graph, Pass(clean, 1, nothing))


def test_the_edges_of_a_row_and_a_constant_make_the_pre_activation(family: Family) -> None:
    graph = traced(family.model, set_of(family.model))
    matrix = dense(graph)
    whole = values(graph, Pass(graph.clean, 1, lambda _, there: there))
    read = [*range(graph.store.columns.n_features), *range(graph.store.columns.n, len(matrix))]
    assert torch.allclose(matrix[read].sum(1) + constant(graph), whole, rtol=0, atol=1e-4)


def test_a_cross_layer_set_with_own_decoders_alone_is_a_set_of_transcoders(gpt2: Family) -> None:
    one = dense(traced(gpt2.model, set_of(gpt2.model)))
    other = dense(traced(gpt2.model, cross_layer(gpt2.model, own_only=True)))
    assert torch.equal(one != 0, other != 0) and torch.allclose(one, other, atol=1e-6)


def test_scaling_a_feature_up_and_its_decoder_down_changes_no_logit_edge(llama: Family) -> None:
    plain = transcoders(llama.model)
    scaled = [
        StandardSAE(
            sae.cfg,
            sae.tensors()
            | {"W_enc": 4 * sae.W_enc, "b_enc": 4 * sae.tensors()["b_enc"], "W_dec": sae.W_dec / 4},
        )
        for sae in plain
    ]
    one, other = (traced(llama.model, held(llama.model, saes)) for saes in (plain, scaled))
    n = one.store.columns.n
    assert torch.allclose(dense(one)[n:], dense(other)[n:], atol=1e-5)
    # A pre-activation is four times as large, and so is all that it is made of.
    k = one.store.columns.n_features
    assert torch.allclose(4 * dense(one)[:k], dense(other)[:k], atol=1e-4)


def test_a_feature_split_in_two_has_edges_that_add_up(llama: Family) -> None:
    plain = transcoders(llama.model)
    half = {
        name: torch.cat(
            [tensor, tensor[..., :1] if name != "W_dec" else tensor[:1]],
            dim=-1 if name != "W_dec" else 0,
        )
        for name, tensor in plain[0].tensors().items()
        if name != "b_dec"
    }
    half["W_dec"][0] *= 0.25
    half["W_dec"][-1] *= 0.75
    split = StandardSAE(replace(plain[0].cfg, d_sae=41), half | {"b_dec": plain[0].b_dec})
    one, other = (
        traced(llama.model, held(llama.model, [first, *plain[1:]])) for first in (plain[0], split)
    )
    acts, twins = one.clean.acts[0], other.clean.acts[0]
    of_first = (acts.features == 0).nonzero()[:, 0]
    assert len(of_first)
    a, b = dense(one), dense(other)
    for column in of_first.tolist():
        pos = acts.positions[column]
        same = (
            (twins.positions == pos) & ((twins.features == 0) | (twins.features == 40))
        ).nonzero()[:, 0]
        assert len(same) == 2
        assert torch.allclose(b[-2:, same].sum(1), a[-2:, column], atol=1e-6)


def test_rows_in_batches_of_any_size_are_the_same(
    gpt2: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dense(traced(gpt2.model, set_of(gpt2.model)))
    monkeypatch.setattr("saescope.graphs.trace._MOST_ROWS", 3)
    monkeypatch.setattr("saescope.graphs.columns._ROW_BYTES", 4 * 40 * gpt2.model.d_model)
    assert torch.allclose(dense(traced(gpt2.model, set_of(gpt2.model))), whole, atol=1e-6)


@pytest.mark.parametrize("kind", ["transcoders", "residual"])
def test_a_row_over_the_beginning_that_reaches_its_feature_is_the_whole_row(
    family: Family, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family.model
    of = set_of(model) if kind == "transcoders" else held(model, residual(model, [0, 1]))
    ids = torch.cat([IDS, IDS])
    whole = dense(traced(model, of, ids=ids))
    tapes: list[int] = []
    made = Tape.__init__
    monkeypatch.setattr(
        Tape, "__init__", lambda tape, clean: (tapes.append(clean.n_pos), made(tape, clean))[1]
    )
    monkeypatch.setattr("saescope.graphs.trace._STEP", 3)
    # Of weights up to 15, in float32.
    assert torch.allclose(dense(traced(model, of, ids=ids)), whole, atol=1e-5)
    assert tapes == [16, 3, 6, 9, 12, 15, 16]


def test_what_is_not_kept_of_a_row_is_in_its_sums(
    gpt2: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = traced(gpt2.model, set_of(gpt2.model))
    monkeypatch.setattr("saescope.graphs.rows.MOST_COLUMNS", 7)
    few = traced(gpt2.model, set_of(gpt2.model))
    for reader, parts in few.store.parts.items():
        for a, b in zip(parts, whole.store.parts[reader], strict=True):
            assert a.columns.shape[1] == 7
            for name in ("total", "errors", "tokens", "explained"):
                assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-5)
            assert torch.allclose(a.weights, b.weights[:, :7])


def test_of_sae_s_of_the_stream_an_edge_is_a_gradient_between_two_sites(llama: Family) -> None:
    """From one SAE to the next through attention and MLP as they are, against plain autograd."""
    model = llama.model
    saes = residual(model, [0, 1])
    graph = traced(model, held(model, saes))
    clean, matrix, columns = graph.clean, dense(graph), graph.store.columns
    x0 = clean.there["blocks.0.hook_resid_post"].clone().requires_grad_()
    seen: list[Tensor] = []
    hooks: list[tuple[str, Any]] = [
        ("blocks.0.hook_resid_post", lambda x, hook: x0),
        ("blocks.1.hook_resid_post", lambda x, hook: seen.append(x)),
    ]
    with torch.enable_grad(), model.hooked(hooks):
        model.bridge(model.batch(IDS))
    acts = clean.acts[1]
    for target in range(0, len(acts.values), 9):
        pos, feature = acts.positions[target], acts.features[target]
        pre = saes[1].hidden_pre_of(seen[0][0], feature[None])[pos, 0]
        (gradient,) = torch.autograd.grad(pre, x0, retain_graph=True)
        name = columns.starts[1] + target
        sources = clean.acts[0]
        rows = sources.values[:, None] * saes[0].W_dec[sources.features]
        want = (rows * gradient[0][sources.positions]).sum(1)
        assert torch.allclose(matrix[name, : len(want)].float(), want, atol=1e-4)
        errors = (clean.errors[0] * gradient[0]).sum(1)
        start = columns.starts[2]
        assert torch.allclose(matrix[name, start : start + len(IDS)].float(), errors, atol=1e-4)


def test_the_stream_ends_where_an_sae_of_it_stands(llama: Family) -> None:
    """From the lower of two SAEs nothing reaches the logits but through the upper one."""
    graph = traced(llama.model, held(llama.model, residual(llama.model, [0, 1])))
    columns, logits = graph.store.columns, dense(graph)[-2:]
    assert not logits[:, : columns.starts[1]].any() and logits[:, columns.starts[1] :].any()
    # At position 0 there is no node, and what arrives there goes on.
    assert not logits[:, columns.tokens_at + 1 :].any()


def test_of_a_cap_the_most_influential_rows_are_computed(gpt2: Family) -> None:
    settings = GraphSettings(most_targets=2, max_features=15)
    graph = traced(gpt2.model, set_of(gpt2.model), settings=settings)
    assert graph.store.n == 15 + 2 and graph.influence.rowless > 0
    whole = traced(gpt2.model, set_of(gpt2.model))
    assert whole.influence.rowless == 0
    # All that flows in ends somewhere: at tokens, at errors, at features without rows, or in
    # biases, which have no node; influence that is passed on is counted once.
    ends = graph.influence.tokens + graph.influence.errors + graph.influence.rowless
    assert ends == pytest.approx(float(graph.weights.sum()), rel=1e-6)


def test_the_frozen_pass_is_the_clean_run(family: Family) -> None:
    clean = _clean(family.model)
    passed = Pass(clean, 1, lambda _, there: there)
    for name, there in passed.read.items():
        assert torch.allclose(there, clean.there[name], atol=1e-5), name


def test_a_gradient_is_the_difference_that_the_pass_makes(family: Family) -> None:
    clean = _clean(family.model, skip=True)
    rng = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(x.shape, generator=rng) for name, x in clean.there.items()}
    before, after = (
        Pass(clean, 1, lambda name, there, step=step: there + step * noise[name]).read
        for step in (0.0, 1.0)
    )
    rows, positions = (
        torch.randn(4, family.model.d_model, generator=rng),
        torch.tensor([7, 7, 4, 2]),
    )
    tape = Tape(clean)
    for reader, name in [(None, FINAL), *((i, hook) for i, hook in enumerate(clean.reads))]:
        want = ((after[name] - before[name])[0, positions] * rows).sum(1)
        pulled = tape.pull(reader, rows, positions)
        got = sum(
            (g * noise[name].reshape(g[0].shape)).sum((1, 2))
            for name, g in zip(tape.hook_names, pulled, strict=True)
            if g is not None
        )
        assert isinstance(got, Tensor) and torch.allclose(got, want, atol=1e-3), name


def test_nothing_is_held_after_a_pass_that_fails(gpt2: Family) -> None:
    clean, model = _clean(gpt2.model), gpt2.model
    before = model.forward(model.batch(IDS))[0]

    def fail(hook_name: str, there: Tensor) -> Tensor:
        if hook_name != EMBED:
            raise ZeroDivisionError
        return there

    with pytest.raises(ZeroDivisionError):
        Pass(clean, 1, fail)
    assert torch.equal(model.forward(model.batch(IDS))[0], before)


def _clean(model: LanguageModel, **kwargs: Any) -> Clean:
    return read_clean(model, set_of(model, **kwargs), model.batch(IDS), n_left_out=1)
