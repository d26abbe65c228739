"""Two SAEs of different architectures on neighbouring layers of random models of many families:
every number of an attribution against a plain Hugging Face model in float64 with hooks of its own.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.attack.families import build
from tests.attack.plain import Change, Plain
from tests.core.oracle import Array, NumpySAE, as_array
from torch import Tensor
from transformers import AutoTokenizer

from saescope.attribution import attribute
from saescope.models import LanguageModel, Tokens, load_model
from saescope.saes import ARCHITECTURES, SAE, SAEMetadata
from saescope.splice import read_hook, run_with_saes, write_hook
from saescope.steering import FeatureEdit, intervene

OFTEN = ("gpt_neox", "gemma2", "llama", "opt", "mamba")
"""Parallel blocks, norms behind attention and MLP, grouped heads, learnt positions, no
attention."""
RARELY = (
    *("gpt2", "gpt_neox_serial", "gptj", "bloom", "falcon", "mpt", "phi", "cohere", "granite"),
    *("olmo2", "qwen3", "stablelm_parallel", "gemma3", "mamba2", "starcoder2"),
)
JUMPRELU: tuple[str, dict[str, Any]] = ("jumprelu", {"normalize_activations": "layer_norm"})
TOPK: tuple[str, dict[str, Any]] = ("topk", {"k": 6})
TRANSCODER: tuple[str, dict[str, Any]] = (
    "topk",
    {"k": 6, "transcoder": True, "skip": True, "apply_b_dec_to_input": False},
)
STREAM, MLP = ("hook_resid_post", ""), ("mlp.hook_in", "hook_mlp_out")
SERIES = {
    "TopK above JumpReLU": [(JUMPRELU, STREAM), (TOPK, STREAM)],
    "a transcoder above JumpReLU": [(JUMPRELU, STREAM), (TRANSCODER, MLP)],
    "JumpReLU above a transcoder": [(TRANSCODER, MLP), (JUMPRELU, STREAM)],
}
TEXT = "The old man saw the little house by the"
TARGET, D_SAE, LISTED = 7, 48, 12
"""`Plain.gradient` is that of logit 7."""
Pair = tuple[int, int, int]
"""SAE, feature, position."""


@dataclass(frozen=True)
class Case:
    """Two SAEs in a model, and the plain model beside it."""

    model: LanguageModel
    plain: Plain
    saes: Sequence[SAE]
    tokens: Tokens

    @property
    def ids(self) -> Tensor:
        return self.tokens.ids[None]

    def record(self, hook_name: str, changes: Mapping[str, Change] | None = None) -> Array:
        seen: list[Array] = []

        def look(x: Tensor) -> Tensor:
            seen.append(flat(x))
            return x

        self.plain.logits(self.ids, {**(changes or {}), hook_name: look})
        return seen[0]

    def logit(self, changes: Mapping[str, Change] | None = None) -> float:
        return float(self.plain.logits(self.ids, changes)[0, -1, TARGET])

    def gradient(self, sae: SAE) -> Array:
        """d logit / d site where the SAE writes, by every path."""
        written = self.record(write_hook(sae))
        return flat(
            self.plain.gradient(self.ids, write_hook(sae), torch.zeros(1, *written.shape).double())
        )

    def without(self, pairs: Sequence[Pair]) -> dict[str, Change]:
        """Hooks that set pairs to zero, each SAE's in the run that lacks those below: what it does
        not reconstruct stays."""
        changes: dict[str, Change] = {}
        for n, sae in enumerate(self.saes):
            own = [(pos, feature) for which, feature, pos in pairs if which == n]
            if own:
                changes |= removing(sae, own)
        return changes


def removing(sae: SAE, own: Sequence[tuple[int, int]]) -> dict[str, Change]:
    plain, read = NumpySAE(sae), list[Array]()

    def look(x: Tensor) -> Tensor:
        read[:] = [flat(x)]
        return x

    def write(x: Tensor) -> Tensor:
        seen = read[0] if sae.cfg.transcoder else flat(x)
        acts, change = plain.encode(seen), np.zeros((len(seen), sae.cfg.d_out))
        for pos, feature in own:
            change[pos] += acts[pos, feature] * plain.directions(seen)[pos, feature]
        return x - torch.tensor(change).reshape(x.shape)

    return ({read_hook(sae): look} if sae.cfg.transcoder else {}) | {write_hook(sae): write}


def flat(x: Tensor) -> Array:
    # A copy: Falcon adds attention's output in place to what its MLP gave.
    return as_array(x).reshape(-1, x.shape[-1]).copy()


def random_sae(plain: Plain, ids: Tensor, hook_names: Sequence[str], kind: Any) -> SAE:
    """Features at home in the scale of the site, of which about a third fire."""
    (architecture, options), (read, written) = kind, hook_names
    x, y = (flat(plain.record(ids, name)) for name in (read, written or read))
    rng = np.random.default_rng(len(read) + len(written))
    size = 1.0 if "normalize_activations" in options else float(x.std())
    out = (1.0 if "normalize_activations" in options else float(y.std())) / size
    (d_in, d_out), random = (x.shape[1], y.shape[1]), rng.normal
    config_class, sae_class = ARCHITECTURES[architecture]
    metadata = SAEMetadata(hook_name=read, hook_name_out=written)
    cfg = config_class(d_in=d_in, d_out=d_out, d_sae=D_SAE, metadata=metadata, **options)
    tensors = {
        "W_enc": random(size=(d_in, D_SAE)) / d_in**0.5,
        "W_dec": 0.3 * random(size=(D_SAE, d_out)) * out,
        "W_skip": 0.3 * random(size=(d_out, d_in)) / d_in**0.5 * out,
        "b_enc": (0.2 * random(size=D_SAE) - 0.3) * size,
        "b_dec": 0.2 * random(size=d_out) * out * size,
        "threshold": rng.uniform(0.05, 0.4, size=D_SAE) * size,
    }
    shapes = sae_class.shapes(cfg)
    return sae_class(cfg, {name: torch.tensor(tensors[name]).float() for name in shapes})


def cases() -> list[Any]:
    return [
        pytest.param(family, series, marks=[] if family in OFTEN else pytest.mark.slow)
        for family in (*OFTEN, *RARELY)
        for series in SERIES
        if not (family.startswith("mamba") and "transcoder" in series)  # there is no MLP
    ]


@pytest.fixture(scope="module")
def pair_of(
    glass_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[LanguageModel, Plain]]:
    """One folder, loaded by us in float32, and as a plain Hugging Face model in float64."""

    @functools.cache
    def pair(family: str) -> tuple[LanguageModel, Plain]:
        folder = tmp_path_factory.mktemp("family") / family
        build(family, folder, AutoTokenizer.from_pretrained(glass_dir))
        plain = Plain(folder)
        plain.hf.double()
        return load_model(folder, device="cpu"), plain

    return pair


@pytest.fixture
def pair(
    request: pytest.FixtureRequest, pair_of: Callable[[str], tuple[LanguageModel, Plain]]
) -> tuple[LanguageModel, Plain]:
    return pair_of(request.param)


@pytest.fixture
def case(pair: tuple[LanguageModel, Plain], series: str) -> Case:
    model, plain = pair
    model.sink_factor = 0.0  # every position but the first counts
    tokens = model.tokenize(TEXT, prepend_bos=False)
    saes = [
        random_sae(
            plain, tokens.ids[None], tuple(f"blocks.{n}.{s}" if s else "" for s in site), kind
        )
        for n, (kind, site) in enumerate(SERIES[series])
    ]
    return Case(model, plain, saes, tokens)


in_every_family = pytest.mark.parametrize(("pair", "series"), cases(), indirect=["pair"])


def close(ours: Any, expected: Any, tolerance: float = 1e-3) -> None:
    """Equal to `tolerance` of the largest value: one side is in float32."""
    ours, expected = np.asarray(ours, dtype=float), np.asarray(expected, dtype=float)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= tolerance * np.abs(expected).max()


@in_every_family
def test_attributions_and_errors_are_those_of_total_gradients(case: Case) -> None:
    found = attribute(
        case.model, case.saes, case.tokens, target=TARGET, measure="logit", k=10**6, validate=False
    )
    assert found.error_share is found.completeness is None
    for n, (sae, share) in enumerate(zip(case.saes, found.by_sae, strict=True)):
        x, y = case.record(read_hook(sae)), case.record(write_hook(sae))
        plain, gradient = NumpySAE(sae), case.gradient(sae)
        acts = plain.encode(x)
        expected = acts * np.einsum("pid,pd->pi", plain.directions(x), gradient)
        rows = [row for row in found.features if row.sae == n]
        # What the last layer writes at another position reaches this logit by no path.
        reached = {at for at in zip(*expected.nonzero(), strict=True) if at[0]}
        assert {(row.pos, row.feature) for row in rows} == reached
        assert share.total == int((acts[1:] > 0).sum())
        close([row.attribution for row in rows], [expected[row.pos, row.feature] for row in rows])
        errors = ((y - plain.decode(acts, x)) * gradient)[1:].sum(-1)
        error, nodes = errors.sum(), np.abs(errors).sum()
        whole = nodes + np.abs(expected[1:]).sum()
        assert abs(share.error_attribution - error) <= 1e-3 * whole and error != 0
        close([share.error_share], [nodes / whole], 5e-3)


@in_every_family
def test_effects_are_those_of_plain_runs_without_the_pairs(case: Case) -> None:
    found = attribute(
        case.model,
        case.saes,
        case.tokens,
        target=TARGET,
        measure="logit",
        k=LISTED,
        n_controls=2,
        seed=1,
    )
    pairs = [(row.sae, row.feature, row.pos) for row in found.features]
    clean = case.logit()
    close(
        [row.measured_effect for row in found.features],
        [clean - case.logit(case.without([each])) for each in pairs],
    )
    assert found.joint
    close([found.joint.measured_effect], [clean - case.logit(case.without(pairs))])


@in_every_family
def test_editing_none_changes_no_bit_and_an_edit_below_is_seen_above(case: Case) -> None:
    model, ids, (lower, upper) = case.model, case.ids, case.saes
    nothing = {write_hook(sae): lambda acts: acts for sae in case.saes}
    for edits in ({}, nothing):
        spliced = run_with_saes(model, ids, case.saes, error_term=True, edits=edits)
        assert torch.equal(spliced, model.forward(ids)[0])
    pos = len(case.tokens) - 1
    below = (0, strongest(lower, case.record(read_hook(lower)), pos), pos)
    above = (1, strongest(upper, case.record(read_hook(upper)), pos), pos)
    edits = [
        FeatureEdit(feature, mode="ablate", positions=(pos,), sae=n)
        for n, feature, _ in (below, above)
    ]
    done = intervene(model, case.saes, case.tokens, edits, target=TARGET, n_controls=0)
    close([done.delta_logit], [case.logit(case.without([below, above])) - case.logit()])
    seen = [
        NumpySAE(upper).encode(case.record(read_hook(upper), changes))[pos, above[1]]
        for changes in (None, case.without([below]))
    ]
    assert abs(seen[1] - seen[0]) > 1e-3 * abs(seen[0])


def strongest(sae: SAE, read: Array, pos: int) -> int:
    return int(NumpySAE(sae).encode(read)[pos].argmax())
