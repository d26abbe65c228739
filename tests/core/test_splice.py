"""SAEs in the model: bit-equal where nothing is edited, else as a plain model with NumPy in the
place of a module's output."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.oracle import (
    KINDS,
    Array,
    Family,
    NumpySAE,
    as_array,
    close,
    flat,
    make_sae,
    replaced_by,
)
from torch import Tensor

from saescope.errors import HookError, MismatchError, NumericError
from saescope.hooks import edit_activations
from saescope.models import load_model
from saescope.saes import SAE
from saescope.splice import (
    check_fits,
    read_hook,
    read_site,
    record,
    run_with_cache_with_saes,
    run_with_saes,
    splice,
    write_hook,
)


def sae_for(family: Family, kind: str, **options: Any) -> SAE:
    if KINDS[kind].site not in family.hf.sites:
        pytest.skip("parallel blocks")
    return make_sae(family, kind, **options)


def reconstruct(family: Family, sae: SAE, ids: Tensor) -> tuple[Array, Array, Array]:
    """(x, what stands where the SAE writes, the reconstruction) from the plain model and NumPy."""
    found = family.hf.record(ids, [read_hook(sae), write_hook(sae)])
    x = flat(found[read_hook(sae)])
    return x, flat(found[write_hook(sae)]), NumpySAE(sae)(x)


def hand(metadata: SAE, **changes: Any) -> SAE:
    """The same SAE with other metadata."""
    cfg = replace(metadata.cfg, metadata=replace(metadata.cfg.metadata, **changes))
    return type(metadata)(cfg, metadata.tensors())


@pytest.mark.parametrize("kind", KINDS)
def test_the_site_is_read_as_by_numpy(family: Family, ids: Tensor, kind: str) -> None:
    sae = sae_for(family, kind)
    x, written, out = reconstruct(family, sae, ids)
    site = read_site(family.model, sae, ids)
    acts = NumpySAE(sae).encode(x)
    assert 0.02 < (acts > 0).mean() < 0.9
    close(as_array(site.acts.to_dense()), acts)
    close(as_array(site.sae_out), out)
    close(as_array(site.target), written)
    close(as_array(site.written), written)
    close(as_array(site.error), written - out)


@pytest.mark.parametrize("kind", KINDS)
def test_with_error_term_and_no_edit_the_logits_are_bit_equal(
    family: Family, ids: Tensor, kind: str
) -> None:
    sae = sae_for(family, kind)
    clean = family.model.forward(ids)[0]
    assert torch.equal(run_with_saes(family.model, ids, [sae], error_term=True), clean)
    same = {write_hook(sae): lambda acts: acts}
    assert torch.equal(run_with_saes(family.model, ids, [sae], error_term=True, edits=same), clean)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_logits_are_bit_equal_whatever_the_dtypes_of_model_and_sae(
    family: Family, ids: Tensor, dtype: str
) -> None:
    model = load_model(family.folder, device="cpu", dtype=dtype)
    clean = model.forward(ids)[0]
    for kind in ("layer_norm", "rescaled", "skip_transcoder"):
        if KINDS[kind].site in family.hf.sites:
            sae = make_sae(family, kind)
            for sae_dtype in (torch.float32, torch.bfloat16):
                assert torch.equal(
                    run_with_saes(model, ids, [sae.to(sae_dtype)], error_term=True), clean
                ), (kind, sae_dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_without_error_term_the_reconstruction_takes_the_activations_place(
    family: Family, ids: Tensor, kind: str
) -> None:
    sae = sae_for(family, kind)
    _, _, out = reconstruct(family, sae, ids)
    expected = family.hf.logits(ids, {write_hook(sae): replaced_by(out)})
    assert (expected - family.hf.logits(ids)).abs().max() > 1e-2
    close(flat(run_with_saes(family.model, ids, [sae])), flat(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_with_error_term_adds_the_difference_of_two_reconstructions(
    family: Family, ids: Tensor, kind: str
) -> None:
    sae = sae_for(family, kind)
    x, written, out = reconstruct(family, sae, ids)
    numpy = NumpySAE(sae)
    acts = numpy.encode(x)
    feature = int((acts > 0).sum(axis=0).argmax())
    edited = acts.copy()
    edited[:, feature] = edited[:, feature] * 3 + 1

    def edit(dense: Tensor) -> Tensor:
        dense = dense.clone()
        dense[:, feature] = dense[:, feature] * 3 + 1
        return dense

    logits = run_with_saes(family.model, ids, [sae], error_term=True, edits={write_hook(sae): edit})
    standing = written + numpy.decode(edited, x) - out
    close(flat(logits), flat(family.hf.logits(ids, {write_hook(sae): replaced_by(standing)})))
    rebuilt = run_with_saes(family.model, ids, [sae], edits={write_hook(sae): edit})
    close(
        flat(rebuilt),
        flat(family.hf.logits(ids, {write_hook(sae): replaced_by(numpy.decode(edited, x))})),
    )


def test_a_skip_transcoder_keeps_its_skip_path(family: Family, ids: Tensor) -> None:
    sae = make_sae(family, "skip_transcoder")
    x, _, out = reconstruct(family, sae, ids)
    straight = x @ as_array(sae.tensors()["W_skip"]).T
    assert np.abs(straight).max() > 0.1 * np.abs(out).max()
    without = run_with_saes(family.model, ids, [sae], edits={write_hook(sae): torch.zeros_like})
    bias = as_array(sae.b_dec)
    close(
        flat(without), flat(family.hf.logits(ids, {write_hook(sae): replaced_by(straight + bias)}))
    )


def test_only_the_named_positions_are_replaced(family: Family, ids: Tensor) -> None:
    sae = make_sae(family, "standard")
    _, written, out = reconstruct(family, sae, ids)
    positions = torch.zeros(ids.shape, dtype=torch.bool)
    positions[0, [3, 7]] = True
    with splice(family.model, [sae], positions=positions):
        ours = family.model.forward(ids)[0]
    standing = np.where(as_array(positions).T > 0, out, written)
    close(flat(ours), flat(family.hf.logits(ids, {write_hook(sae): replaced_by(standing)})))


@pytest.mark.parametrize("first", ["standard", "constant_norm", "layer_norm", "rescaled"])
def test_the_users_own_hook_at_the_same_site_comes_first(
    family: Family, ids: Tensor, first: str
) -> None:
    sae = sae_for(family, first)
    own = {write_hook(sae): lambda x: x * 1.3 - 0.1}
    numpy = NumpySAE(sae)

    def both(x: Tensor) -> Tensor:
        moved = x * 1.3 - 0.1
        return torch.tensor(numpy(flat(moved))).reshape(x.shape).to(x)

    expected = family.hf.logits(ids, {write_hook(sae): both})
    close(flat(run_with_saes(family.model, ids, [sae], hooks=own)), flat(expected))
    alone = family.hf.logits(ids, {write_hook(sae): own[write_hook(sae)]})
    close(flat(run_with_saes(family.model, ids, [sae], hooks=own, error_term=True)), flat(alone))


def test_a_users_hook_at_another_site_stays(gpt2: Family, ids: Tensor) -> None:
    sae = make_sae(gpt2, "topk")
    own: dict[str, Callable[[Tensor], Tensor]] = {"blocks.0.hook_mlp_out": lambda x: x * 0.5}
    out = NumpySAE(sae)(flat(gpt2.hf.record(ids, [write_hook(sae)], own)[write_hook(sae)]))
    expected = gpt2.hf.logits(ids, own | {write_hook(sae): replaced_by(out)})
    close(flat(run_with_saes(gpt2.model, ids, [sae], hooks=own)), flat(expected))


def in_turn(family: Family, saes: list[SAE], ids: Tensor) -> Tensor:
    """Logits of the plain model with each SAE reading what the ones below it left."""
    changes: dict[str, Callable[[Tensor], Tensor]] = {}
    for sae in saes:
        found = family.hf.record(ids, [read_hook(sae)], changes)
        changes[write_hook(sae)] = replaced_by(NumpySAE(sae)(flat(found[read_hook(sae)])))
    return family.hf.logits(ids, changes)


@pytest.mark.parametrize("turned", [False, True], ids=["from below", "from above"])
@pytest.mark.parametrize(
    "kinds",
    [
        ("standard", "topk"),
        ("constant_norm", "layer_norm"),
        ("layer_norm", "skip_transcoder"),
        ("hook_z", "rescaled"),
    ],
)
def test_several_saes_act_together_in_any_order(
    family: Family, ids: Tensor, kinds: tuple[str, str], turned: bool
) -> None:
    saes = [sae_for(family, kind, seed=seed) for seed, kind in enumerate(kinds)]
    ours = run_with_saes(family.model, ids, saes[::-1] if turned else saes)
    close(flat(ours), flat(in_turn(family, saes, ids)), 1e-3)


@pytest.mark.parametrize("turned", [False, True])
def test_a_transcoder_reads_what_an_sae_at_its_input_left(
    gpt2: Family, ids: Tensor, turned: bool
) -> None:
    transcoder = make_sae(gpt2, "skip_transcoder")
    at_input = hand(make_sae(gpt2, "topk"), hook_name=read_hook(transcoder))
    saes = [at_input, transcoder]
    close(
        flat(run_with_saes(gpt2.model, ids, saes[::-1] if turned else saes)),
        flat(in_turn(gpt2, saes, ids)),
        1e-3,
    )


def test_the_cache_holds_the_numbers_of_each_sae(family: Family, ids: Tensor) -> None:
    saes = [
        make_sae(family, "standard"),
        make_sae(family, "skip_transcoder"),
        make_sae(family, "hook_z", layer=2),
    ]
    logits, cache = run_with_cache_with_saes(family.model, ids, saes)
    close(flat(logits), flat(in_turn(family, saes, ids)), 1e-3)
    keys = ("input", "acts_pre", "acts_post", "recons", "error", "output")
    assert set(cache) == {f"{write_hook(sae)}.hook_sae_{key}" for sae in saes for key in keys}
    sae = saes[0]
    x, written, out = reconstruct(family, sae, ids)
    pre = x @ sae.W_enc.double().numpy() + sae.tensors()["b_enc"].double().numpy()
    pre = pre - sae.cfg.apply_b_dec_to_input * (sae.b_dec @ sae.W_enc).double().numpy()
    values = [x, pre, NumpySAE(sae).encode(x), out, written - out, out]
    for key, value in zip(keys, values, strict=True):
        cached = cache[f"{write_hook(sae)}.hook_sae_{key}"]
        assert cached.shape[:2] == ids.shape
        close(flat(cached), value)


def test_the_cache_of_an_edit_holds_the_edited_activations_and_the_output(
    gpt2: Family, ids: Tensor
) -> None:
    sae = make_sae(gpt2, "standard")
    name = write_hook(sae)
    _, cache = run_with_cache_with_saes(
        gpt2.model, ids, [sae], error_term=True, edits={name: lambda acts: acts * 2}
    )
    x, written, out = reconstruct(gpt2, sae, ids)
    acts = NumpySAE(sae).encode(x)
    close(flat(cache[f"{name}.hook_sae_acts_post"]), 2 * acts)
    close(flat(cache[f"{name}.hook_sae_output"]), written + NumpySAE(sae).decode(2 * acts, x) - out)


def test_a_batch_gives_each_text_its_own_numbers(family: Family, ids: Tensor) -> None:
    sae = make_sae(family, "topk")
    batch = torch.cat([ids, ids.flip(1)])
    ours = run_with_saes(family.model, batch, [sae])
    for row, text in zip(ours, batch, strict=True):
        close(as_array(row), as_array(in_turn(family, [sae], text[None])[0]))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_mean_is_subtracted_only_where_the_models_norm_does(
    family_of: Callable[[str], Family], ids: Tensor, name: str
) -> None:
    family = family_of(name)
    sae = hand(make_sae(family, "standard"), center_writing_weights=True)
    x = flat(family.hf.record(ids, [read_hook(sae)])[read_hook(sae)])
    mean = x.mean(axis=1, keepdims=True) if name == "gpt2" else 0
    site = read_site(family.model, sae, ids)
    close(as_array(site.x), x - mean)
    close(as_array(site.written), x)
    close(as_array(site.acts.to_dense()), NumpySAE(sae).encode(x - mean))
    # What the SAE never saw stays: the activation's own mean.
    expected = family.hf.logits(ids, {write_hook(sae): replaced_by(NumpySAE(sae)(x - mean) + mean)})
    close(flat(run_with_saes(family.model, ids, [sae])), flat(expected))


def test_two_saes_on_one_site_are_refused(gpt2: Family, ids: Tensor) -> None:
    with pytest.raises(MismatchError) as caught:
        run_with_saes(
            gpt2.model, ids, [make_sae(gpt2, "standard"), make_sae(gpt2, "standard", seed=1)]
        )
    assert caught.value.code == "TWO_SAES_ON_SITE" and caught.value.got == "blocks.1.hook_resid_pre"


def test_an_edit_at_a_site_of_no_sae_is_refused(gpt2: Family, ids: Tensor) -> None:
    with pytest.raises(HookError) as caught:
        run_with_saes(
            gpt2.model,
            ids,
            [make_sae(gpt2, "standard")],
            edits={"blocks.0.hook_resid_pre": lambda acts: acts},
        )
    assert (
        caught.value.got == "blocks.0.hook_resid_pre"
        and "blocks.1.hook_resid_pre" in caught.value.allowed
    )


def test_an_sae_of_another_width_is_refused(
    family: Family, gpt2: Family, family_of: Callable[[str], Family], ids: Tensor
) -> None:
    glass = family_of("glass")
    sae = make_sae(gpt2 if family.name == "glass" else glass, "standard")
    for use in (
        lambda: check_fits(family.model, sae),
        lambda: run_with_saes(family.model, ids, [sae], error_term=True),
    ):
        with pytest.raises(MismatchError) as caught:
            use()
        assert caught.value.code == "DIM_MISMATCH" and str(sae.cfg.d_in) == caught.value.allowed


def test_a_transcoder_is_checked_at_both_ends(gpt2: Family) -> None:
    sae = hand(make_sae(gpt2, "skip_transcoder"), hook_name_out="blocks.1.mlp.hook_post")
    with pytest.raises(MismatchError) as caught:
        check_fits(gpt2.model, sae)
    assert caught.value.code == "DIM_MISMATCH" and "mlp.hook_post" in caught.value.message


@pytest.mark.parametrize(
    ("hook_name", "code"),
    [
        ("", "HOOK_UNKNOWN"),
        ("blocks.1.hook_resid", "HOOK_NOT_FOUND"),
        ("blocks.7.hook_resid_pre", "HOOK_NOT_FOUND"),
    ],
)
def test_an_sae_without_a_hook_of_this_model_is_refused(
    gpt2: Family, hook_name: str, code: str
) -> None:
    with pytest.raises(HookError) as caught:
        check_fits(gpt2.model, hand(make_sae(gpt2, "standard"), hook_name=hook_name))
    assert caught.value.code == code and caught.value.hint


@pytest.mark.parametrize(
    ("said", "which"),
    [
        (None, ""),
        ([None], ""),
        ([1, None], ""),
        ([0, 32], ""),
        ([5, 20], "positions 5 to 19 of contexts of 32 "),
        ([-4, None], "positions 28 to 31 of contexts of 32 "),
        ([31], "positions 0 to 30 of contexts of 32 "),
        ([2, None, 2], "positions 2 to 30 in steps of 2 of contexts of 32 "),
        ([40, 50], "no position of contexts of 32 "),
    ],
)
def test_an_sae_of_some_positions_says_so(
    gpt2: Family, said: list[int | None] | None, which: str
) -> None:
    sae = make_sae(gpt2, "standard")
    meta = replace(sae.cfg.metadata, context_size=32, raw={"seqpos_slice": said})
    warnings = check_fits(gpt2.model, sae.with_metadata(meta))
    of_positions = [warning for warning in warnings if "seqpos_slice" in warning]
    assert [
        warning.partition("trained on ")[2].partition("tokens")[0] for warning in of_positions
    ] == ([which] if which else [])


@pytest.fixture(scope="module")
def named(family_of: Callable[[str], Family]) -> Family:
    """A model whose files say whose weights they are."""
    family = family_of("gpt2")
    model = load_model(family.folder, device="cpu")
    model.identities = frozenset({"pythia-70m"})
    return replace(family, model=model)


def test_an_sae_of_another_model_is_refused_unless_it_is_wanted(named: Family, ids: Tensor) -> None:
    sae = make_sae(named, "standard", model_name="gpt2-small")
    with pytest.raises(MismatchError) as caught:
        check_fits(named.model, sae)
    assert (
        caught.value.code == "MODEL_MISMATCH"
        and caught.value.allowed == "gpt2-small"
        and "gpt2-small" in caught.value.hint
    )
    assert "gpt2-small" in check_fits(named.model, sae, allow_mismatch=True)[0]


@pytest.mark.parametrize("name", ["pythia-70m", "EleutherAI/pythia-70m", "pythia"])
def test_an_sae_of_this_model_under_any_name_is_taken_without_a_warning(
    named: Family, name: str
) -> None:
    assert check_fits(named.model, make_sae(named, "standard", model_name=name)) == []


@pytest.mark.parametrize("name", ["", "gpt2-small"])
def test_what_cannot_be_verified_is_said(gpt2: Family, name: str) -> None:
    (warning,) = check_fits(gpt2.model, make_sae(gpt2, "standard", model_name=name))
    assert "only the measured check tells" in warning and name in warning


def test_a_namesake_is_left_to_the_measurement_and_another_name_is_said(gpt2: Family) -> None:
    namesake = make_sae(gpt2, "standard", model_name=gpt2.model.name)
    assert check_fits(gpt2.model, namesake, measured=True) == []
    assert len(check_fits(gpt2.model, namesake)) == 1
    for name in ("", "pythia-70m"):
        sae = make_sae(gpt2, "standard", model_name=name)
        assert len(check_fits(gpt2.model, sae, measured=True)) == 1


def test_activations_that_are_not_finite_are_an_error(gpt2: Family, ids: Tensor) -> None:
    with (
        pytest.raises(NumericError),
        edit_activations(gpt2.model, {"blocks.0.hook_resid_post": lambda x: x * torch.nan}),
    ):
        read_site(gpt2.model, make_sae(gpt2, "standard"), ids)


@pytest.mark.parametrize("prepend_bos", [True, False, None])
def test_record_reads_a_text_as_the_sae_was_trained(gpt2: Family, prepend_bos: bool | None) -> None:
    sae = make_sae(gpt2, "standard", prepend_bos=prepend_bos)
    text = "The old man saw the house"
    ids = torch.tensor(
        [
            [
                *([2] if prepend_bos else []),
                *gpt2.model.tokenizer.hf(text, add_special_tokens=False).input_ids,
            ]
        ]
    )
    x = flat(gpt2.hf.record(ids, [read_hook(sae)])[read_hook(sae)])
    close(as_array(record(gpt2.model, sae, text).x), x)


def test_a_splice_that_fails_leaves_the_model_as_before(gpt2: Family, ids: Tensor) -> None:
    clean = gpt2.model.forward(ids)[0]

    def fail(acts: Tensor) -> Tensor:
        raise KeyError

    sae = make_sae(gpt2, "skip_transcoder")
    with pytest.raises(KeyError):
        run_with_saes(gpt2.model, ids, [sae], edits={write_hook(sae): fail})
    assert not any(point.fwd_hooks for point in gpt2.model.bridge.hook_dict.values())
    assert torch.equal(gpt2.model.forward(ids)[0], clean)
