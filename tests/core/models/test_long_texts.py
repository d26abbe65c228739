"""A long text read in chunks is what plain transformers makes of it in one pass, for the memory of
a chunk."""

import itertools
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from tests.attack.families import FAMILIES, build
from tests.attack.plain import Plain
from tests.core.oracle import Family, make_sae
from tests.core.steering.reference import steered_logits
from torch import Tensor
from transformers import AutoTokenizer

from saescope.cancel import cancellable
from saescope.errors import Cancelled, ModelError, NumericError
from saescope.features import encode_texts
from saescope.hooks import edit_activations, record_texts
from saescope.models import LanguageModel, Tokens, load_model
from saescope.models.kv_cache import new_cache, require_reach
from saescope.splice import read_site
from saescope.stack import as_stack
from saescope.steering import FeatureEdit, steer
from saescope.steering.generate import Cursor, passes_of, read_logits, steered_by
from saescope.steering.prepare import prepare
from saescope.steering.steer import Steering
from saescope.steering.units import Controls, Unit

N_TOKENS, PASS_TOKENS = 90, 24
"""Eight chunks, which are longer than the sliding window of 8 that two of the families have."""
BOUND = 2e-6
"""The largest difference, as a share of the largest number there: some roundings of float32."""


def long_ids(n: int = N_TOKENS) -> Tensor:
    return (torch.arange(n) * 37 % 1000 + 4)[None]


def as_tokens(model: LanguageModel, n: int) -> Tokens:
    ids = long_ids(n)[0]
    strings = tuple(model.token_text(i) for i in ids.tolist())
    return Tokens(ids, torch.isin(ids, model.tokenizer.special_ids), strings, False)


def off(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


@pytest.fixture
def in_chunks(family: Family, monkeypatch: pytest.MonkeyPatch) -> Family:
    monkeypatch.setattr(family.model, "pass_tokens", PASS_TOKENS)
    assert len(family.model.passes(N_TOKENS)) == 8
    return family


def test_activations_are_those_of_one_pass_at_every_site(in_chunks: Family) -> None:
    model, heard = in_chunks.model, list[int]()
    for layer in (0, 2):
        names = [f"blocks.{layer}.{site}" for site in in_chunks.hf.sites]
        expected = in_chunks.hf.record(long_ids(), names)
        for name in names:  # alone, so that the pass ends there
            found = record_texts(model, long_ids(), [name], advance=heard.append)
            assert off(found[name].flatten(2), expected[name].flatten(2)) < BOUND, name
            assert sum(heard) == N_TOKENS and len(heard) == 8
            heard.clear()


def test_features_are_those_of_one_pass(gpt2: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sae = gpt2.model, make_sae(gpt2, "topk")
    tokens = as_tokens(model, N_TOKENS)
    monkeypatch.setattr(model, "pass_tokens", PASS_TOKENS)
    parts = encode_texts(model, sae, [tokens])
    monkeypatch.setattr(model, "pass_tokens", N_TOKENS)
    whole = encode_texts(model, sae, [tokens])
    assert torch.equal(parts.texts[0].counted, whole.texts[0].counted)
    assert off(parts.texts[0].acts.to_dense(), whole.texts[0].acts.to_dense()) < 10 * BOUND
    assert parts.explained_variance == pytest.approx(whole.explained_variance, rel=1e-5)


def test_logits_under_steering_are_those_of_one_pass_of_transformers(in_chunks: Family) -> None:
    """The last 20 positions lie in two chunks; position 0 and special tokens are left out."""
    model, sae = in_chunks.model, make_sae(in_chunks, "standard")
    tokens, edits = as_tokens(model, N_TOKENS), [FeatureEdit(5, 8.0), FeatureEdit(7, 3.0, "clamp")]
    stack, ids = as_stack(model, sae), model.batch(as_tokens(model, N_TOKENS).ids)
    ready = prepare(stack, tokens, edits, unit=Unit("raw", [None], [None]), controls=Controls(0, 0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    cursor = Cursor(mask, passes_of(stack, N_TOKENS))
    clean = read_logits(model, ids, cursor, last=20)[0]
    with steered_by(stack, [ready.plans], cursor):
        steered = read_logits(model, ids, cursor, last=20)[0]
    expected = in_chunks.hf.logits(ids)
    assert clean.shape[1] == 20 and off(clean, expected[:, -20:]) < BOUND
    by_hand = steered_logits(in_chunks.hf, sae, ids, edits, [1.0, 1.0], N_TOKENS)[-20:]
    assert off(steered[0].double(), torch.tensor(by_hand)) < 10 * BOUND
    assert off(clean[0].double(), torch.tensor(by_hand)) > 1e-3, "the edits do something"


def test_generation_after_a_long_prompt_is_that_of_one_pass(
    in_chunks: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, heard = in_chunks.model, list[tuple[int, int]]()
    sae, edits = make_sae(in_chunks, "standard"), [FeatureEdit(5, 8.0)]

    def written() -> Steering:
        heard.clear()
        done = steer(
            model,
            sae,
            as_tokens(model, 70),
            edits,
            unit="raw",
            max_new_tokens=6,
            concept_tokens=[50],
            progress=lambda done, total: heard.append((done, total)),
        )
        assert heard[-1][0] == heard[-1][1], "all of the work was said"
        return done

    parts, n_parts = written(), heard[-1][1]
    monkeypatch.setattr(model, "pass_tokens", 96)
    whole = written()
    assert n_parts == heard[-1][1] + 5, "five chunks before the last"
    assert texts_of(parts) == texts_of(whole) and len(set(texts_of(whole))) > 1
    assert numbers_of(parts) == pytest.approx(numbers_of(whole), rel=1e-3, abs=1e-6)


def texts_of(done: Steering) -> list[str]:
    return [arm.text for arm in (done.baseline, *done.steered, *done.controls)]


def numbers_of(done: Steering) -> list[float | None]:
    arms = [done.baseline, *done.steered, *done.controls]
    metrics = [(arm.metrics.kl, arm.metrics.perplexity) for arm in arms]
    return [done.concept_logprob, done.concept_control.mean, *itertools.chain(*metrics)]


def test_a_cancel_is_heard_between_two_chunks(
    gpt2: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stop, heard = gpt2.model, threading.Event(), list[int]()
    monkeypatch.setattr(model, "pass_tokens", PASS_TOKENS)
    name = "blocks.1.hook_resid_post"
    before = record_texts(model, long_ids(), [name])[name]

    def advance(n: int) -> None:
        heard.append(n)
        stop.set()

    with cancellable(stop), pytest.raises(Cancelled):
        record_texts(model, long_ids(), [name], advance=advance)
    assert heard == [12]
    assert torch.equal(record_texts(model, long_ids(), [name])[name], before)


def test_what_is_not_finite_in_a_late_chunk_is_an_error(
    gpt2: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sae, n_passes = gpt2.model, make_sae(gpt2, "standard"), 0
    monkeypatch.setattr(model, "pass_tokens", PASS_TOKENS)
    model.passes(N_TOKENS)

    def break_the_sixth(x: Tensor) -> Tensor:
        nonlocal n_passes
        n_passes += 1
        return x * torch.inf if n_passes == 6 else x

    with (
        edit_activations(model, {"blocks.0.hook_resid_pre": break_the_sixth}),
        pytest.raises(NumericError),
    ):
        read_site(model, sae, long_ids())
    assert n_passes == 8


def test_a_cache_that_misses_tokens_is_an_error(gpt2: Family) -> None:
    past = new_cache(gpt2.model.bridge.original_model)
    gpt2.model.forward(long_ids(9), past=past, use_cache=True)
    require_reach(past, n_tokens=9, below=3)
    for n_tokens, below in ((10, 3), (18, 0)):
        with pytest.raises(ModelError) as error:
            require_reach(past, n_tokens=n_tokens, below=below)
        assert error.value.code == "CACHE_MISMATCH"


@pytest.mark.parametrize(
    ("family", "n_chunks"),
    [
        ("jamba", 1),  # steps of one token are right, chunks of several are not
        pytest.param("mamba", 1, marks=pytest.mark.slow),
        pytest.param("lfm2", 5, marks=pytest.mark.slow),
        *(
            pytest.param(name, None, marks=pytest.mark.thorough)
            for name in ("bloom", "falcon", "gpt_oss", "llama4", "mpt", "opt", "qwen3_next", "phi3")
        ),
    ],
)
def test_a_family_whose_cache_cannot_do_it_reads_in_one_pass(
    family: str, n_chunks: int | None, tmp_path: Path, glass_dir: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(glass_dir)
    folder = build(family, tmp_path / family, tokenizer)
    model, ids = load_model(folder, device="cpu"), long_ids(60)
    model.pass_tokens = PASS_TOKENS
    assert len(model.passes(60)) == (n_chunks or 5)
    for site in ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"):
        found = record_texts(model, ids, [site])[site][0]
        assert off(found, Plain(folder).record(ids, site)) < 1e-5, site


MEASURE = """
import resource, sys, torch
from saescope.models import load_model
from saescope.hooks import record_texts
torch.set_num_threads(1)
model = load_model(sys.argv[1], device="cpu")
for n in (1024, 4096):
    ids = (torch.arange(n) * 37 % 1000 + 4)[None]
    record_texts(model, ids, ["blocks.1.hook_resid_post"])
    print(len(model.passes(n)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_memory_grows_with_the_chunk(
    tmp_path: Path, glass_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One matrix of attention of 8 heads over 4,096 tokens has 537 MB; transformers holds several
    at a time. A chunk's has 67 MB."""
    architecture, own = FAMILIES["qwen2"]
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 4096}
    monkeypatch.setitem(FAMILIES, "qwen2", (architecture, own | sizes))
    folder = build("qwen2", tmp_path / "qwen2", AutoTokenizer.from_pretrained(glass_dir))
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True
    )
    (n_1k, peak_1k), (n_4k, peak_4k) = (map(int, line.split()) for line in told.stdout.splitlines())
    assert (n_1k, n_4k) == (1, 8)
    assert (peak_4k - peak_1k) * 1024 < 4 * 67e6


def test_a_short_text_is_one_pass_whatever_the_model(glass: LanguageModel) -> None:
    assert glass.passes(1024) == [(0, 1024)] and len(glass.passes(1025)) == 3
