"""Two prompts compared: planted features whose share is known, and every number against plain
Hugging Face models with hooks of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.oracle import (
    KINDS,
    Array,
    Change,
    Family,
    NumpySAE,
    as_array,
    close,
    flat,
    kl,
    make_sae,
    shifted_by,
)
from torch import Tensor

from saescope.controls import ENOUGH, more_than
from saescope.errors import ArgumentError
from saescope.models import Tokens
from saescope.models.analysis import norm_matched_placebo
from saescope.records.pairs import Closed, PairComparison
from saescope.saes import SAE, SAEMetadata
from saescope.saes.standard import StandardConfig, StandardSAE
from saescope.search import compare_prompts
from saescope.search.alignment import align, in_words
from saescope.search.judging import judge, share_of
from saescope.splice import read_hook, write_hook
from saescope.verdicts import Carrier

A = "The old man saw the little house by the sea"
B = "The little man saw the old house by the sea"
TARGET, AGAINST = 300, 41
NOISE = 40


def tokens_of(family: Family, text: str) -> Tokens:
    return family.model.tokenize(text, prepend_bos=True)


class Plain:
    """Both prompts in the plain model, and what changes of a do to its prediction."""

    def __init__(self, family: Family, a: Tokens, b: Tokens) -> None:
        self.hf, self.ids, self.ids_b = family.hf, a.ids[None], b.ids[None]
        self.clean, self.other = (
            as_array(self.hf.logits(x)[0, -1]) for x in (self.ids, self.ids_b)
        )

    def closed(
        self, changes: Mapping[str, Change], tokens: tuple[int, int] = (TARGET, AGAINST)
    ) -> tuple[float, float]:
        row = as_array(self.hf.logits(self.ids, changes)[0, -1])
        start, end, now = (x[tokens[0]] - x[tokens[1]] for x in (self.clean, self.other, row))
        left = kl(self.other, row) / kl(self.other, self.clean)
        return float((now - start) / (end - start)), float(1 - left)

    def at(self, hook_name: str) -> tuple[Array, Array]:
        a, b = (flat(self.hf.record(x, [hook_name])[hook_name]) for x in (self.ids, self.ids_b))
        return a, b


def planted(family: Family, plain: Plain, share: float) -> SAE:
    """Feature 0 fires on b's last token alone and writes `share` of what b has there and a has not;
    feature 1 fires alike and writes nothing; others fire on b and write a little of anything."""
    hook_name = "blocks.1.hook_resid_post"
    x_a, x_b = (x[-1] for x in plain.at(hook_name))
    step = x_b - x_a
    towards = step / (step @ step)
    rng = np.random.default_rng(0)
    rows = 0.001 * np.linalg.norm(step) * rng.normal(size=(2 + NOISE, len(step))) / len(step) ** 0.5
    rows[0], rows[1] = share * step, 0
    gains = np.concatenate([[1, 1], rng.uniform(0.5, 2, NOISE)])
    tensors = {
        "W_enc": towards[:, None] * gains,
        "W_dec": rows,
        "b_enc": -(towards @ x_a) * gains - 1e-3,
        "b_dec": np.zeros(len(step)),
    }
    cfg = StandardConfig(
        d_in=len(step),
        d_out=len(step),
        d_sae=len(rows),
        apply_b_dec_to_input=False,
        metadata=SAEMetadata(hook_name=hook_name),
    )
    return StandardSAE(cfg, {k: torch.tensor(v, dtype=torch.float32) for k, v in tensors.items()})


@pytest.fixture
def pair(family: Family) -> tuple[Tokens, Tokens]:
    """Two prompts that differ in their last token."""
    return tokens_of(family, "The old man saw the"), tokens_of(family, "The old man saw a")


def test_a_planted_feature_closes_all_and_a_decoy_nothing(
    family: Family, pair: tuple[Tokens, Tokens]
) -> None:
    plain = Plain(family, *pair)
    sae = planted(family, plain, 1.0)
    found = compare_prompts(family.model, sae, *pair, target=TARGET, against=AGAINST, k=1)
    (row,) = found.features
    assert (row.feature, row.pos_a, row.pos_b) == (0, len(pair[0]) - 1, len(pair[1]) - 1)
    assert row.activation_a == 0 and row.activation_b == pytest.approx(1, abs=5e-3)
    assert row.closed == pytest.approx(1, abs=0.03)
    assert found.whole.difference == pytest.approx(1, abs=1e-4)
    assert found.together.kl == pytest.approx(1, abs=0.03) and found.control.outside
    assert abs(found.error.difference or 0) < 0.2 and found.unchanged
    assert found.verdict.level is Carrier.FEW and found.total == 2 + NOISE
    rows = compare_prompts(family.model, sae, *pair, target=TARGET, against=AGAINST, k=42).features
    decoy = next(row for row in rows if row.feature == 1)
    assert decoy.activation_b == pytest.approx(1, abs=5e-3) and decoy.activation_a == 0
    assert decoy.closed == pytest.approx(0, abs=1e-4)


def test_a_feature_that_closes_all_carries_it_though_others_undo_that(gpt2: Family) -> None:
    pair = tokens_of(gpt2, "The old man saw the"), tokens_of(gpt2, "The old man saw a")
    sae = planted(gpt2, Plain(gpt2, *pair), 1.0)
    found = compare_prompts(gpt2.model, sae, *pair, target=TARGET, against=AGAINST, k=1)
    undone = replace(found, all_features=Closed(1.33, -3.16))
    assert judge(undone).level is Carrier.FEW and "all 42 1.33" in judge(undone).why
    like_any = replace(undone, control=more_than(1.0, [1.0] * ENOUGH))
    assert judge(like_any).level is Carrier.ERROR
    for error, said in ((Closed(0.67, -3.0), True), (Closed(0.67, 0.6), False)):
        assert ("neither carries" in judge(replace(like_any, error=error)).why) is said


def test_what_the_sae_does_not_say_is_left_to_its_error(
    family: Family, pair: tuple[Tokens, Tokens]
) -> None:
    plain = Plain(family, *pair)
    sae = planted(family, plain, 0.02)
    found = compare_prompts(family.model, sae, *pair, target=TARGET, against=AGAINST)
    assert found.verdict.level is Carrier.ERROR
    assert found.whole.difference == pytest.approx(1, abs=1e-4)
    assert found.whole.kl == pytest.approx(1, abs=1e-4)
    assert (found.error.difference or 0) > 0.8


def changed(sae: NumpySAE, x: Array, there: Array, mask: Array) -> Array:
    """All features set to those of b at the positions that are patched."""
    acts = sae.encode(x)
    return np.einsum("pi,pid->pd", (there - acts) * mask[:, None], sae.directions(x))


def patched_positions(a: Tokens) -> Array:
    first = next(pos for pos, token in enumerate(a.strings) if token == " old")
    return np.array([float(pos >= first and int(i) > 3) for pos, i in enumerate(a.ids)])


@pytest.mark.parametrize("kind", ["topk", "layer_norm", "skip_transcoder"])
def test_every_share_is_that_of_plain_hooks(family: Family, kind: str) -> None:
    if KINDS[kind].site not in family.hf.sites:
        pytest.skip("parallel blocks")
    a, b = tokens_of(family, A), tokens_of(family, B)
    assert len(a) == len(b)
    plain, sae = Plain(family, a, b), make_sae(family, kind)
    own, mask = NumpySAE(sae), patched_positions(a)
    (x_a, x_b), (y_a, y_b) = plain.at(read_hook(sae)), plain.at(write_hook(sae))
    there = own.encode(x_b)
    features = changed(own, x_a, there, mask)
    whole = (y_b - y_a) * mask[:, None]
    found = compare_prompts(family.model, sae, a, b, target=TARGET, against=AGAINST, k=6)
    name = write_hook(sae)
    for closed, change in (
        (found.all_features, features),
        (found.whole, whole),
        (found.error, whole - features),
    ):
        close([closed.difference, closed.kl], plain.closed({name: shifted_by(change)}), 2e-3)
    together = np.zeros_like(whole)
    for row in found.features:
        now = own.encode(x_a)[row.pos_a, row.feature]
        close([row.activation_a, row.activation_b], [now, there[row.pos_b, row.feature]], 1e-3)
        alone = np.zeros_like(whole)
        step = row.activation_b - row.activation_a
        alone[row.pos_a] = step * own.directions(x_a)[row.pos_a, row.feature]
        together += alone
        shares = plain.closed({name: shifted_by(alone)})
        assert [row.closed, row.closed_kl] == pytest.approx(shares, abs=2e-3)
    shares = plain.closed({name: shifted_by(together)})
    close([found.together.difference, found.together.kl], shares, 5e-3)
    assert found.total == int(((there != own.encode(x_a)) * mask[:, None]).sum())
    assert found.unchanged and found.control.n == found.placebo.n == 19


def test_an_upper_sae_is_set_to_b_in_the_run_that_holds_the_patch_below(family: Family) -> None:
    """Values come from b's clean run: patches in series never undo each other."""
    a, b = tokens_of(family, A), tokens_of(family, B)
    plain, mask = Plain(family, a, b), patched_positions(a)
    lower, upper = make_sae(family, "standard"), make_sae(family, "topk", layer=2, seed=1)
    found = compare_prompts(
        family.model, [upper, lower], a, b, target=TARGET, against=AGAINST, k=4, n_controls=2
    )
    changes: dict[str, Change] = {}
    for sae in (lower, upper):
        own, there = NumpySAE(sae), NumpySAE(sae).encode(plain.at(read_hook(sae))[1])

        def patch(x: Tensor, own: NumpySAE = own, there: Array = there) -> Tensor:
            return shifted_by(changed(own, flat(x), there, mask))(x)

        changes[write_hook(sae)] = patch
    shares = plain.closed(changes)
    close([found.all_features.difference, found.all_features.kl], shares, 5e-3)
    assert found.whole.difference == pytest.approx(1, abs=1e-3) and found.unchanged
    assert [each.sae for each in found.by_sae] == [0, 1]
    alone = plain.closed({write_hook(lower): changes[write_hook(lower)]})
    close([found.by_sae[1].features.difference, found.by_sae[1].features.kl], alone, 5e-3)
    assert any("do not add up" in warning for warning in found.warnings)


def test_a_push_that_moves_only_the_logit_difference_carries_nothing() -> None:
    """The rest of the prediction goes elsewhere: the smaller share counts."""
    assert share_of(Closed(0.98, -4.4)) == -4.4 and share_of(Closed(None, 0.5)) == 0.5
    assert share_of(Closed(0.3, None)) == 0.3 and share_of(Closed(None, None)) is None


def test_the_default_tokens_are_those_that_the_prompts_predict(gpt2: Family) -> None:
    a, b = tokens_of(gpt2, A), tokens_of(gpt2, B)
    sae, plain = make_sae(gpt2, "topk"), Plain(gpt2, a, b)
    found = compare_prompts(gpt2.model, sae, a, b, n_controls=0)
    assert found.target.id == plain.other.argmax()
    if plain.other.argmax() != plain.clean.argmax():
        assert found.against.id == plain.clean.argmax()
    else:
        assert any("predict the same token" in warning for warning in found.warnings)
    assert found.difference_b - found.difference_a > 0
    assert found.kl == pytest.approx(float(kl(plain.other, plain.clean)), rel=1e-3)


def of(ids: Sequence[int]) -> Tokens:
    tensor = torch.tensor(ids)
    return Tokens(tensor, torch.zeros(len(ids), dtype=torch.bool), tuple(map(str, ids)), False)


@pytest.mark.parametrize(
    ("a", "b", "pairs", "n_unaligned"),
    [
        ([1, 2, 3, 4], [1, 9, 3, 4], [(1, 1), (2, 2), (3, 3)], 0),
        ([1, 5, 6, 5, 7], [1, 6, 5, 5, 7], [(1, 1), (2, 2), (3, 3), (4, 4)], 0),  # names swapped
        ([1, 2, 3, 4], [1, 2, 8, 9, 3, 4], [(2, 4), (3, 5)], 2),  # put in
        ([1, 2, 8, 9, 3], [1, 2, 3], [(4, 2)], 2),  # taken out
        ([1, 5, 3, 4], [1, 6, 7, 3, 4], [(1, 2), (2, 3), (3, 4)], 1),  # a longer name: its end
        ([1, 2], [1, 2, 3], [], 1),
    ],
)
def test_tokens_are_aligned(
    a: list[int], b: list[int], pairs: list[tuple[int, int]], n_unaligned: int
) -> None:
    found = align(of(a), of(b))
    assert [*zip(found.a.tolist(), found.b.tolist(), strict=True)] == pairs
    assert found.n_unaligned == n_unaligned


def test_what_differs_is_said_in_words() -> None:
    a, b = of([1, 5, 3, 4]), of([1, 3, 8, 9, 4])
    one, other = in_words(a, b, align(a, b).spans)
    assert (one.pos_a, one.text_a, one.pos_b, one.text_b) == (1, "5", None, "")
    assert (other.pos_a, other.text_a, other.pos_b, other.text_b) == (None, "", 2, "89")


def test_two_prompts_of_the_same_tokens_are_refused(gpt2: Family) -> None:
    a, sae = tokens_of(gpt2, A), make_sae(gpt2, "topk")
    with pytest.raises(ArgumentError) as refused:
        compare_prompts(gpt2.model, sae, a, a)
    assert (refused.value.code, refused.value.field) == ("SAME_PROMPTS", "b")


def test_a_prompt_that_only_goes_on_has_nothing_to_patch(gpt2: Family) -> None:
    sae = make_sae(gpt2, "topk")
    found = compare_prompts(gpt2.model, sae, tokens_of(gpt2, A), tokens_of(gpt2, f"{A} again"))
    assert not found.features and found.total == 0 and found.control.n == 0
    assert found.verdict.level is Carrier.ELSEWHERE and found.whole.difference == 0


def test_a_comparison_is_the_same_each_time(gpt2: Family) -> None:
    a, b, sae = tokens_of(gpt2, A), tokens_of(gpt2, B), make_sae(gpt2, "topk")

    def once(seed: int) -> PairComparison:
        return compare_prompts(gpt2.model, sae, a, b, seed=seed)

    assert once(3) == once(3)
    assert once(3).control != once(4).control and once(3).features == once(4).features


def test_a_placebo_moves_as_far_in_another_direction() -> None:
    draw = torch.Generator().manual_seed(0)
    base, source, move = (torch.randn(5, 64, generator=draw) for _ in range(3))
    moved: Any = norm_matched_placebo(base, source, move, rank=3, seed=1)
    torch.testing.assert_close(moved.norm(dim=-1), move.norm(dim=-1))
    assert float(torch.cosine_similarity(moved, move, dim=-1).abs().max()) < 0.6
    assert int(torch.linalg.matrix_rank(moved, rtol=1e-4)) == 3
    torch.testing.assert_close(norm_matched_placebo(base, source, move, rank=3, seed=1), moved)
