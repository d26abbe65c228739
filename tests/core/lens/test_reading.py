"""Readers against plain transformers: the logit lens against a loop over hidden states, the
Jacobian against autograd and finite differences."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.graphs import planted
from tests.core.oracle import Family, Reference
from torch import Tensor

from saescope.lens import (
    JACOBIAN,
    Lens,
    effects_through,
    logit_lens_of,
    read_lens,
    tokens_through,
)
from saescope.lens.agree import lower_bound, shared
from saescope.models import LanguageModel, Tokens, load_model
from saescope.models.analysis import fit_jacobian, jacobian_lens
from saescope.records.lens import LensFacts
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE
from saescope.untrusted import clean_token
from saescope.verdicts import Signal

TEXT = "Once upon a time there was a little girl who said that she would like to know."
SKIP = 2


def lens_of(
    model: LanguageModel, ids: Tensor, *, skip_first: int = SKIP, first_layer: int = 0
) -> Lens:
    """A lens of one prompt, at every layer from the first one on."""
    layers = range(first_layer, model.n_layers - 1)
    matrices = fit_jacobian(model, ids, layers=layers, skip_first=skip_first)
    facts = LensFacts(
        lens=JACOBIAN, layers=[*layers], n_prompts=1, n_tokens=len(ids), corpus=None, revision=None
    )
    return Lens(facts, jacobian_lens(model, matrices, n_prompts=1))


def matrix_of(lens: Lens, layer: int) -> Tensor:
    matrix = lens.matrix(layer)
    assert matrix is not None
    return matrix.float()


def sae_of(model: LanguageModel, hook_name: str, rows: Tensor) -> SAE:
    """An SAE whose features all fire, and write these rows."""
    n, d = rows.shape
    tensors = {
        "W_enc": torch.zeros(d, n),
        "b_enc": torch.arange(n, 0, -1).float(),
        "W_dec": rows.clone(),
        "b_dec": torch.zeros(d),
    }
    meta = SAEMetadata(model_name=model.name, hook_name=hook_name)
    cfg = StandardConfig(d_in=d, d_sae=n, apply_b_dec_to_input=False, metadata=meta)
    return StandardSAE(cfg, tensors)


def by_hand(reference: Reference, residual: Tensor) -> Tensor:
    """Final norm, unembedding and soft cap of the plain model."""
    logits = reference.unembed(reference.norm(residual))
    cap = reference.soft_cap
    return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_the_logit_lens_is_the_norm_and_the_unembedding_of_each_hidden_state(
    name: str, family_of: Callable[[str], Family]
) -> None:
    family = family_of(name)
    tokens = family.model.tokenize(TEXT)
    reading = read_lens(family.model, [tokens], positions=[3, -1], top_k=4)
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    states = family.hf.record(tokens.ids[None], hooks)
    n_rows = 0
    for row in reading.layers:
        logits = by_hand(family.hf, states[hooks[row.layer]])[0, row.pos]
        expected = [family.model.token_text(i) for i in logits.topk(4).indices.tolist()]
        assert row.logit == expected
        if row.pos == 3:
            assert row.logit_rank == 1 + int((logits > logits[tokens.ids[4]]).sum())
        else:
            assert row.logit_rank is None
        assert row.jacobian is None
        n_rows += 1
    assert n_rows == 6
    assert [row.next for row in reading.positions] == [tokens.strings[4], None]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_a_jacobian_is_the_mean_gradient_that_autograd_finds_in_the_plain_model(
    name: str, family_of: Callable[[str], Family], ids: Tensor
) -> None:
    family = family_of(name)
    lens = lens_of(family.model, ids[0])
    cotangent = torch.randn(32, generator=torch.Generator().manual_seed(1))
    valid = slice(SKIP, ids.shape[1] - 1)
    for layer in (0, 1):
        kept: dict[str, Tensor] = {}

        def leaf(x: Tensor, kept: dict[str, Tensor] = kept) -> Tensor:
            kept["source"] = x.detach().requires_grad_(True)
            return kept["source"]

        def keep(x: Tensor, kept: dict[str, Tensor] = kept) -> Tensor:
            kept["target"] = x
            return x

        sites: Any = {f"blocks.{layer}.hook_resid_post": leaf, "blocks.2.hook_resid_post": keep}
        family.hf.logits(ids, sites, grad=True)
        total = (kept["target"][0, valid] @ cotangent).sum()
        (gradient,) = torch.autograd.grad(total, kept["source"])
        expected = gradient[0, valid].mean(0)
        matrix = lens.matrix(layer)
        assert matrix is not None
        torch.testing.assert_close(cotangent @ matrix, expected, rtol=2e-4, atol=2e-5)


def test_a_jacobian_is_what_finite_differences_in_double_precision_say(
    folder_of: Callable[[str], Path], ids: Tensor
) -> None:
    model = load_model(folder_of("gpt2"), device="cpu", dtype="float64")
    reference = Reference(folder_of("gpt2"), torch.float64)
    matrix = lens_of(model, ids[0]).matrix(0)
    assert matrix is not None
    direction = torch.randn(32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step, last = 1e-5, ids.shape[1] - 1

    def final(pos: int, sign: float) -> Tensor:
        def push(x: Tensor) -> Tensor:
            moved = x.clone()
            moved[0, pos] += sign * step * direction
            return moved

        out = "blocks.2.hook_resid_post"
        return reference.record(ids, [out], {"blocks.0.hook_resid_post": push})[out][0]

    moves = [
        (final(pos, 1) - final(pos, -1))[SKIP:last].sum(0) / (2 * step) for pos in range(SKIP, last)
    ]
    expected = torch.stack(moves).mean(0)
    torch.testing.assert_close(matrix.double() @ direction, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_at_the_last_layer_every_lens_is_the_model_itself(
    name: str, family_of: Callable[[str], Family], ids: Tensor
) -> None:
    model = family_of(name).model
    tokens = model.tokenize(TEXT)
    lens = lens_of(model, ids[0])
    logits = model.forward(model.batch(tokens.ids))[0][0]
    reading = read_lens(model, [tokens], lens=lens, positions=range(len(tokens)), top_k=3)
    last = [row for row in reading.layers if row.layer == 2]
    assert len(last) == len(tokens)
    for row, said in zip(last, reading.positions, strict=True):
        expected = [model.token_text(i) for i in logits[row.pos].topk(3).indices.tolist()]
        assert row.logit == row.jacobian == said.predicts == expected
        assert row.logit_rank == row.jacobian_rank == said.next_rank
    assert all(2 not in pair.layers for pair in reading.agreement)


def test_what_is_read_through_a_matrix_is_the_matrix_times_the_residual_stream(
    gpt2: Family, ids: Tensor
) -> None:
    lens = lens_of(gpt2.model, ids[0])
    matrix = lens.matrix(1)
    assert matrix is not None
    tokens = gpt2.model.tokenize(TEXT)
    hook = "blocks.1.hook_resid_post"
    residual = gpt2.hf.record(tokens.ids[None], [hook])[hook]
    expected = by_hand(gpt2.hf, residual @ matrix.T)[0, -1].topk(5).indices.tolist()
    reading = read_lens(gpt2.model, [tokens], lens=lens)
    (row,) = [row for row in reading.layers if row.layer == 1]
    assert row.jacobian == [gpt2.model.token_text(i) for i in expected]
    assert row.logit != row.jacobian


def test_a_fit_leaves_the_model_and_its_bridge_as_they_were(gpt2: Family, ids: Tensor) -> None:
    model = gpt2.model
    before = model.forward(ids)[0]
    flags = [each.requires_grad for each in model.bridge.parameters()]
    lens_of(model, ids[0])
    assert torch.equal(model.forward(ids)[0], before)
    assert flags == [each.requires_grad for each in model.bridge.parameters()]
    assert "to_tokens" not in vars(model.bridge)
    assert model.bridge.to_tokens("Once").shape[0] == 1


def test_a_token_that_is_written_only_by_a_later_layer_is_missed_by_the_logit_lens_and_found(
    tmp_path: Path, glass_dir: Path
) -> None:
    model = load_model(planted.save(tmp_path / "planted", glass_dir), device="cpu")
    written = torch.zeros(2, planted.D)
    written[0, planted.STATE] = 3.0
    written[1, planted.TOKENS[planted.ANSWER]] = 3.0
    sae = sae_of(model, "blocks.0.hook_resid_post", written)
    # So many fillers that the state alone does not fill the stream: more of it raises the answer.
    fillers = [planted.FILLER] * 12
    end = [planted.CITY, planted.FILLER, planted.CAPITAL, planted.FILLER]
    prompt = torch.tensor([planted.BOS, *fillers, *end])
    lens = lens_of(model, prompt, skip_first=1)
    answer, both = planted.ANSWER, torch.tensor([0, 1])
    through = effects_through(model, sae, both, lens)
    direct = effects_through(model, sae, both, logit_lens_of(model))
    assert through is not None and direct is not None
    assert int(through[0].argmax()) == answer
    assert int((direct[0] > direct[0, answer]).sum()) > 100
    # what writes the token itself is found by both
    assert int(direct[1].argmax()) == int(through[1].argmax()) == answer
    said = tokens_through(model, sae, 0, lens)
    assert said is not None and said.layer == 0
    assert said.promotes[0] == clean_token(model.token_text(answer))
    reading = read_lens(model, [model.tokenize("a b c d")], lens=lens, saes=[sae])
    (row,) = [row for row in reading.layers if row.layer == 0]
    assert [one.feature for one in row.features] == [0, 1]
    assert row.features[0].promotes[0] == clean_token(model.token_text(answer))


def noise(folder: Path, glass_dir: Path) -> LanguageModel:
    """A model whose later blocks drown what earlier ones wrote."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, set_seed

    set_seed(3)
    config = GPT2Config(
        vocab_size=1024,
        n_embd=48,
        n_layer=3,
        n_head=4,
        n_positions=96,
        tie_word_embeddings=False,
        bos_token_id=2,
        eos_token_id=3,
    )
    hf: Any = GPT2LMHeadModel(config)
    with torch.no_grad():
        for number, block in enumerate(hf.transformer.h):
            block.mlp.c_fc.weight.normal_(std=6.0)
            block.mlp.c_proj.weight.normal_(std=30.0**number)
        hf.lm_head.weight.normal_()
    hf.save_pretrained(folder)
    AutoTokenizer.from_pretrained(glass_dir).save_pretrained(folder)
    return load_model(folder, device="cpu")


def text_of(model: LanguageModel, n: int, seed: int = 0) -> Tokens:
    ids = torch.randint(10, 1000, (n,), generator=torch.Generator().manual_seed(seed))
    return Tokens(
        ids, torch.zeros(n, dtype=torch.bool), tuple(model.token_text(int(i)) for i in ids), False
    )


def test_a_model_whose_layers_say_nothing_of_its_prediction_has_no_signal(
    tmp_path: Path, glass_dir: Path
) -> None:
    model = noise(tmp_path / "noise", glass_dir)
    reading = read_lens(model, [text_of(model, 60)])
    assert reading.signal is Signal.NONE
    assert "n=59 positions, 59 of them of the given texts" in reading.why
    (pair,) = reading.agreement
    assert pair.agree_at == [] and max(pair.overlap) < 0.1


def test_matrices_that_are_not_of_this_model_have_no_signal(glass: LanguageModel) -> None:
    text = glass.tokenize("Alice was beginning to get very tired of sitting by her sister. " * 3)
    draw = torch.Generator().manual_seed(0)
    matrices = {n: torch.randn(128, 128, generator=draw) / 128**0.5 for n in range(3)}
    facts = lens_of(glass, text.ids[:20]).facts
    lens = Lens(facts, jacobian_lens(glass, matrices, n_prompts=1))
    reading = read_lens(glass, [text], lens=lens)
    assert reading.signal is Signal.NONE
    # the logit lens beside it is what it was
    by_pair = {tuple(pair.readers): pair for pair in reading.agreement}
    assert by_pair["logit", "model"].agree_at == [0, 1, 2]
    assert by_pair["jacobian", "model"].agree_at == []


def test_a_trained_model_has_a_signal(glass: LanguageModel) -> None:
    text = "Alice was beginning to get very tired of sitting by her sister on the bank. " * 2
    reading = read_lens(glass, [glass.tokenize(text)])
    assert reading.signal is Signal.SIGNAL
    (pair,) = reading.agreement
    assert pair.readers == ["logit", "model"]
    assert pair.agree_at == [0, 1, 2] and max(pair.random) < 0.05 < 0.2 < min(pair.overlap)


def test_a_short_text_is_judged_with_passages_that_no_lens_is_fitted_on(
    glass: LanguageModel,
) -> None:
    reading = read_lens(glass, [glass.tokenize("Once upon a time")])
    assert reading.signal is Signal.SIGNAL
    assert reading.agreement[0].n == 64
    n_given = int(reading.why.split(" of them of the given texts")[0].split()[-1])
    assert 0 < n_given < 10


def test_overlap_is_the_share_of_tokens_in_common() -> None:
    first, second = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([[4, 3, 9, 0]])
    assert shared(first, second).tolist() == [[0.5], [0.0]]


def test_the_bound_is_below_the_mean_and_unknown_for_few_blocks() -> None:
    differences = torch.linspace(0.1, 0.5, 40)
    low = lower_bound(differences, torch.arange(40) // 4, 0.05)
    assert low is not None and 0.2 < low < 0.26
    assert lower_bound(differences[:16], torch.arange(16) // 4, 0.05) is None


@pytest.mark.parametrize("skip_first", [0, 3])
def test_a_jacobian_is_that_of_transformer_lens(family: Family, skip_first: int) -> None:
    from transformer_lens.tools.analysis.jacobian_lens import JacobianLens

    model = family.model
    ids = model.tokenize(TEXT).ids[:10]
    layers = range(model.n_layers - 1)
    ours = fit_jacobian(model, ids, layers=layers, skip_first=skip_first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(model.bridge), "to_tokens", lambda _prompt: model.batch(ids))
        theirs = JacobianLens.fit(
            model.bridge,
            ["the prompt"],
            corpus="one",
            skip_first_positions=skip_first,
            show_progress=False,
        )
    for layer in layers:
        torch.testing.assert_close(ours[layer], theirs.jacobians[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first_layer", [None, 0, 1])
def test_a_reader_has_settled_where_it_names_the_models_token_up_to_the_end(
    glass: LanguageModel, first_layer: int | None
) -> None:
    """The logit lens reads every layer, whatever the Jacobian lens has matrices for."""
    tokens, head = glass.tokenize(TEXT), glass.bridge.original_model
    lens = None if first_layer is None else lens_of(glass, tokens.ids, first_layer=first_layer)
    reading = read_lens(glass, [tokens], lens=lens, positions=range(1, len(tokens)))
    with torch.no_grad():
        out = head(tokens.ids[None], output_hidden_states=True)
    own = out.logits[0].argmax(-1)

    def from_on(pos: int, matrices: dict[int, Tensor]) -> int:
        layer = glass.n_layers - 1
        while layer - 1 in matrices:
            carried = out.hidden_states[layer][0, pos] @ matrices[layer - 1].T
            if head.lm_head(head.model.norm(carried)).argmax() != own[pos]:
                break
            layer -= 1
        return layer

    logit = dict.fromkeys(range(glass.n_layers), torch.eye(out.hidden_states[0].shape[-1]))
    fitted = None if lens is None else {n: matrix_of(lens, n) for n in lens.facts.layers}
    for at in reading.positions:
        assert at.logit_from == from_on(at.pos, logit)
        assert at.jacobian_from == (None if fitted is None else from_on(at.pos, fitted))
    assert min(at.logit_from for at in reading.positions) < (first_layer or 1)
