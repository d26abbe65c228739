"""Everything of the core on a pretended accelerator: nothing mixes devices, what comes out is what
a CPU gives, and the host waits for the device no more often than is said here."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from tests import accelerator
from tests.core.training.cases import CASES, COEFFICIENTS, random_case, revived
from tests.core.training.helpers import KNOBS, batches, config
from torch import Tensor

import saescope as ss
from saescope import precision
from saescope.activations import open_dataset
from saescope.errors import Cancelled, NumericError
from saescope.features.index import IndexConfig, IndexProgress, IndexRun
from saescope.finite import finite_together, require_finite
from saescope.models import LanguageModel, model_fingerprint
from saescope.ops import SparseActs
from saescope.saes import SAE
from saescope.splice import run_with_saes
from saescope.steering import FeatureEdit
from saescope.training import ListBatches, Trainer, machine
from saescope.training.objective import Batch, Dead
from saescope.training.steps import make_step, relu
from saescope.training.steps.relu import ReluStep
from saescope_mcp.state.memory import total_bytes

ROOT = Path(__file__).parents[2]
TEXT = "The king saw the sea and was very sad. He went to the boat with his little dog and sang."
TEXTS = (TEXT, "The sea was blue and cold.", "A boat came over the sea to him.")
OTHERS = ("A dog ran to the big tree.", "She had a red ball and a doll.", "He sat down to eat.")


class Bench(NamedTuple):
    """A small real model and an SAE in it, on one device."""

    model: LanguageModel
    sae: SAE
    other: SAE

    def tokens(self, *texts: str) -> list[Any]:
        return [self.model.tokenize(text) for text in texts]


def bench(device: str) -> Bench:
    model = ss.load_model(str(ROOT / "tests/data/glassllm-en"), device=device, dtype="float32")
    sae = ss.load_sae(ROOT / "agent_evals/data/glass-l2", device=device, dtype="float32")
    generator = torch.Generator().manual_seed(5)
    tensors = sae.tensors()
    moved = tensors["W_dec"] + 0.01 * torch.randn(sae.W_dec.shape, generator=generator).to(
        sae.device
    )
    return Bench(model, sae, type(sae)(sae.cfg, tensors | {"W_dec": moved}))


@pytest.fixture(scope="module")
def here() -> Bench:
    return bench("cpu")


@pytest.fixture(scope="module", params=[True, False], ids=["float64", "no_float64"])
def card(request: pytest.FixtureRequest) -> Iterator[accelerator.Card]:
    """An accelerator as NVIDIA's are, and one that knows no float64, as Apple's."""
    lacking = set[str]() if request.param else {accelerator.NAME}
    with (
        accelerator.plugged_in(has_float64=request.param) as card,
        mock.patch.object(precision, "WITHOUT_FLOAT64", lacking),
    ):
        yield card


@pytest.fixture(scope="module")
def there(card: accelerator.Card) -> Bench:
    return bench(accelerator.NAME)


Work = Callable[[Bench], Any]
EDIT = FeatureEdit(feature=3, mode="add", strength=2.0)
QUICK: dict[str, Work] = {
    "encode": lambda on: ss.encode_texts(on.model, on.sae, on.tokens(TEXT)),
    "rank": lambda on: ss.rank_features(on.model, on.sae, on.tokens(*TEXTS)),
    "attribute": lambda on: ss.attribute(on.model, on.sae, on.tokens(TEXT)[0]),
    "intervene": lambda on: ss.intervene(on.model, on.sae, on.tokens(TEXT)[0], [EDIT]),
    "contrast": lambda on: ss.contrast_texts(
        on.model, on.sae, on.tokens(*TEXTS), against=on.tokens(*OTHERS)
    ),
    "match": lambda on: ss.match_features(on.model, on.sae, on.other, on.tokens(TEXT)),
    "run with SAEs": lambda on: run_with_saes(on.model, on.tokens(TEXT)[0].ids, [on.sae]),
    "check": lambda on: ss.check_sae(on.model, on.sae),
}
LONG: dict[str, Work] = {
    "steer": lambda on: ss.steer(on.model, on.sae, on.tokens(TEXT)[0], [EDIT], max_new_tokens=8),
    "sweep": lambda on: ss.sweep(
        on.model, on.sae, on.tokens(TEXT), [EDIT], strengths=[1.0, 2.0], max_new_tokens=4
    ),
    "find by tokens": lambda on: ss.find_by_tokens(on.model, on.sae, [" the"], k=3),
    "causes": lambda on: ss.find_causes(
        on.model, on.sae, [" the"], prompts=on.tokens(*OTHERS), n_measured=3, k=3
    ),
    "compare prompts": lambda on: ss.compare_prompts(
        on.model, on.sae, *on.tokens("The king saw the sea", "The king saw the dog")
    ),
    "circuit": lambda on: ss.trace_circuit(on.model, on.sae, "The king saw the sea"),
    "evaluate": lambda on: ss.evaluate(on.model, on.sae, n_tokens=1500),
    "select": lambda on: ss.select_features(
        on.model,
        on.sae,
        on.tokens(*TEXTS),
        against=on.tokens(*OTHERS),
        causes=[" the"],
        prompts=on.tokens(*OTHERS),
    ),
    "strength": lambda on: ss.steer_search(
        on.model,
        on.sae,
        [EDIT],
        concept=[" the"],
        prompts=["He saw", "They came to"],
        held_out=["She had", "We went with"],
        max_new_tokens=4,
    ),
    "integrated gradients": lambda on: ss.attribute(
        on.model, on.sae, on.tokens(TEXT)[0], method="integrated_gradients", n_controls=3
    ),
}


LONGEST = ("find by tokens", "strength", "sweep")


def alike(a: Any, b: Any, where: str = "") -> None:
    """Two results that differ by rounding alone."""
    if isinstance(a, Tensor):
        assert torch.allclose(a.cpu().double(), b.cpu().double(), rtol=1e-3, atol=1e-5), where
    elif isinstance(a, SparseActs):
        alike(a.to_dense(), b.to_dense(), where)
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            alike(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}")
    elif isinstance(a, dict):
        assert [*a] == [*b], where
        for name, value in a.items():
            alike(value, b[name], f"{where}[{name!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            alike(one, other, f"{where}[{i}]")
    elif isinstance(a, float):
        assert math.isclose(a, b, rel_tol=2e-3, abs_tol=2e-5) or (a != a and b != b), (where, a, b)
    elif type(a).__module__.startswith("saescope") and hasattr(a, "__dict__"):
        alike(vars(a), vars(b), where)
    else:
        assert a == b, (where, a, b)


@pytest.mark.parametrize("work", QUICK.values(), ids=QUICK)
def test_it_gives_on_an_accelerator_what_it_gives_on_a_cpu(
    work: Work, here: Bench, there: Bench
) -> None:
    alike(work(here), work(there))


@pytest.mark.slow
@pytest.mark.parametrize(
    "work",
    [
        pytest.param(each, id=name, marks=pytest.mark.thorough if name in LONGEST else ())
        for name, each in LONG.items()
    ],
)
def test_long_work_gives_on_an_accelerator_what_it_gives_on_a_cpu(
    work: Work, here: Bench, there: Bench
) -> None:
    alike(work(here), work(there))


def test_the_card_refuses_tensors_of_the_cpu_beside_its_own(card: accelerator.Card) -> None:
    on_card = torch.ones(3, device=accelerator.DEVICE)
    with pytest.raises(RuntimeError, match="found at least two devices"):
        _ = on_card + torch.ones(3)
    assert (on_card + torch.tensor(1.0)).tolist() == [2.0, 2.0, 2.0]


def test_the_card_counts_what_the_host_waits_for(card: accelerator.Card) -> None:
    on_card = torch.arange(4.0, device=accelerator.DEVICE)
    card.forget()
    float(on_card.sum())
    _ = on_card[on_card > 1]
    on_card.cpu()
    assert card.waits.total() == 3 and not card.uploads
    torch.ones(2).to(accelerator.DEVICE)
    assert card.uploads.total() == 1


def waits(card: accelerator.Card, work: Callable[[], Any]) -> int:
    card.forget()
    work()
    return card.waits.total()


def test_an_sae_makes_the_host_wait_once_for_each_batch(
    card: accelerator.Card, there: Bench
) -> None:
    x = torch.randn(64, there.sae.cfg.d_in).to(there.sae.device)
    assert waits(card, lambda: there.sae.encode_sparse(x)) == 1
    assert waits(card, lambda: there.sae(x)) == 0


@pytest.mark.slow
def test_an_attribution_makes_the_host_wait_twelve_times_at_most(
    card: accelerator.Card, there: Bench
) -> None:
    tokens = there.tokens(TEXT)[0]
    ss.attribute(there.model, there.sae, tokens)  # what is found out once a model
    n = waits(card, lambda: ss.attribute(there.model, there.sae, tokens))
    assert n <= (12 if card.has_float64 else 24)  # what is computed in float64 goes to the host


@pytest.mark.slow
def test_a_ranking_makes_the_host_wait_eight_times_a_text(
    card: accelerator.Card, there: Bench
) -> None:
    texts = there.tokens(*TEXTS, *OTHERS)
    ss.rank_features(there.model, there.sae, texts)
    one, six = (
        waits(card, lambda n=n: ss.rank_features(there.model, there.sae, texts[:n])) for n in (1, 6)
    )
    assert (six - one) / 5 <= (8 if card.has_float64 else 10)


@pytest.mark.slow
def test_an_evaluation_makes_the_host_wait_twice_a_batch(
    card: accelerator.Card, there: Bench
) -> None:
    n_pos = 16
    ids = torch.randint(5, 200, (72, n_pos), generator=torch.Generator().manual_seed(0))
    few, many = (
        waits(card, lambda n=n: ss.evaluate(there.model, there.sae, ids[:n])) for n in (24, 72)
    )
    # Each context is a batch of the second pass: all that may stand at the site are its rows. What
    # is computed in float64 goes to the host where the card has none.
    assert (many - few) / 48 <= (2 if card.has_float64 else 64)


def test_the_weights_of_a_model_are_read_once_for_its_fingerprint(
    card: accelerator.Card, there: Bench
) -> None:
    model_fingerprint(there.model)
    assert waits(card, lambda: model_fingerprint(there.model)) == 0


def test_torch_knows_its_constructors_beside_the_card() -> None:
    import torch.utils._device

    constructors: Any = torch.utils._device
    with accelerator.plugged_in():
        constructors._device_constructors.cache_clear()
        with torch.device("meta"):
            assert torch.tensor([1.0]).is_meta and torch.as_tensor([1.0]).is_meta
        assert torch.tensor([1.0], device=accelerator.NAME).device == accelerator.DEVICE


def test_the_memory_of_a_card_is_its_own(card: accelerator.Card) -> None:
    assert machine.free_bytes(accelerator.DEVICE) == 60 * accelerator.GIB
    assert total_bytes(accelerator.NAME) == 80 * accelerator.GIB
    assert machine.peak_bytes(accelerator.DEVICE) == 0


@pytest.mark.slow
@pytest.mark.parametrize("architecture", KNOBS)
def test_a_training_on_an_accelerator_learns_what_it_learns_on_a_cpu(
    card: accelerator.Card, architecture: str
) -> None:
    def trained(device: str) -> dict[str, Tensor]:
        cfg = config(architecture, n_steps=6)
        trainer = Trainer(cfg, ListBatches(batches(6)), device=torch.device(device))
        trainer.run()
        return trainer.result().tensors()

    alike(trained("cpu"), trained(accelerator.NAME))


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_for_nothing_and_is_that_of_a_cpu(
    card: accelerator.Card, case: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse path whose entries nothing limits waits once a chunk, for their number."""
    objective, params, batch, dead = random_case(case, "sae")
    monkeypatch.setattr(relu, "MAX_DENSITY", 1.0 if path == "sparse" else 0.0)
    monkeypatch.setattr(relu, "WORTH_A_WAIT", 0 if path == "sparse" else math.inf)
    there = {name: tensor.to(accelerator.DEVICE) for name, tensor in params.items()}
    x = batch.x.to(accelerator.DEVICE)
    on_cpu, on_card = make_step(objective, params), make_step(objective, there)
    for _ in range(2):
        wanted = on_cpu(batch, coefficients=COEFFICIENTS, dead=revived(dead))
        at_most = Dead(dead.to(accelerator.DEVICE), int(dead.sum()) + 9)
        card.forget()
        got = on_card(Batch(x, x), coefficients=COEFFICIENTS, dead=at_most)
        assert card.waits.total() == (path == "sparse" and isinstance(on_card, ReluStep))
        alike(dict(wanted.losses), dict(got.losses))
        alike(dict(wanted.grads), dict(got.grads))
        alike([wanted.fired, wanted.squared_error], [got.fired, got.squared_error])
    guess = {"cut": 0.0}  # of a CPU alone, and of nothing that comes out
    alike(on_cpu.state() | guess, on_card.state() | guess)


TRAININGS: dict[str, dict[str, Any]] = {
    **{name: {} for name in KNOBS},
    "standard ghost": {"architecture": "standard", "revival": "ghost"},
    "standard for an L0": {"architecture": "standard", "l1_coefficient": 0.0, "k": 3.0},
    "jumprelu for an L0": {"architecture": "jumprelu", "l0_coefficient": 0.0, "target_l0": 3.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_waits_at_the_points_of_its_history_alone(
    card: accelerator.Card, name: str
) -> None:
    knobs = {"architecture": name} | TRAININGS[name]
    cfg = config(**knobs, n_steps=20, log_every=5, dead_feature_window=10, resample_every=1000)
    source = ListBatches([batch.to(accelerator.DEVICE) for batch in batches(20)])
    trainer = Trainer(cfg, source, device=accelerator.DEVICE)
    trainer.advance()  # what is estimated once a run
    trainer.params[cfg.recipe.biases[0]][:12] -= 9.0  # these die

    counts = [waits(card, trainer.advance) for _ in range(19)]
    assert trainer.history.points[-1]["dead_share"] >= 0.25
    at_points = counts[3::5]
    assert sum(counts) == sum(at_points) and max(at_points) <= 5
    assert waits(card, trainer.checkpoint) <= 4


def test_a_loss_that_is_not_finite_stops_a_training_at_the_next_point(
    card: accelerator.Card, tmp_path: Path
) -> None:
    source = [batch.to(accelerator.DEVICE) for batch in batches(8)]
    source[4][0, 0] = math.nan
    cfg = config(n_steps=8, log_every=4, n_batches_for_norm_estimate=2)
    trainer = Trainer(cfg, ListBatches(source), folder=tmp_path, device=accelerator.DEVICE)
    with pytest.raises(NumericError, match="no longer finite at step 8"):
        trainer.run()
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_token_makes_the_host_wait_once_and_once_for_each_row_that_is_steered(
    card: accelerator.Card, there: Bench
) -> None:
    def steer(n: int) -> None:
        ss.steer(there.model, there.sae, there.tokens(TEXT)[0], [EDIT], max_new_tokens=n)

    steer(1)  # what is found out once a model
    few, many = (waits(card, lambda n=n: steer(n)) for n in (2, 6))
    assert (many - few) / 4 <= 1 + 3  # the steered text and two controls


@pytest.mark.slow
def test_an_index_makes_the_host_wait_twice_a_batch(
    card: accelerator.Card, there: Bench, tmp_path: Path
) -> None:
    cfg = IndexConfig(n_tokens=2000, context_size=32)
    run = IndexRun(there.model, [there.sae], open_dataset("embedded"), cfg, root=tmp_path)
    run.corpus.most_rows = 8
    counts = list[int]()

    def count(_: IndexProgress) -> None:
        counts.append(card.waits.total())
        card.forget()

    run.go(report=count)
    counts = counts[1:]  # without what is found out once a model
    # Without float64 everything is gathered on the host: the activations and the mask go there.
    assert len(counts) > 5 and max(counts) <= (2 if card.has_float64 else 6)


@pytest.mark.slow
def test_an_index_of_an_accelerator_is_that_of_a_cpu(
    here: Bench, there: Bench, tmp_path: Path
) -> None:
    on_cpu, on_card = (
        ss.index_features(on.model, on.sae, n_tokens=2000, root=tmp_path / on.sae.device.type)
        for on in (here, there)
    )
    alike(on_cpu.typical, on_card.typical)
    alike(on_cpu.maxima, on_card.maxima)
    alike(on_cpu.densities, on_card.densities)


def test_what_is_not_finite_is_said_at_the_end_of_what_is_checked_together() -> None:
    checked = list[str]()

    def failed(name: str) -> Callable[[], NumericError]:
        return lambda: NumericError(name)

    with pytest.raises(NumericError, match="second"), finite_together():
        require_finite(torch.ones(2), failed("first"))
        require_finite(torch.tensor([1.0, math.nan]), failed("second"))
        require_finite(torch.tensor([math.inf]), failed("third"))
        checked.append("all of the block ran")
    assert checked
    with pytest.raises(NumericError, match="at once"):
        require_finite(torch.tensor([math.nan]), failed("at once"))


def test_what_a_caught_block_was_asked_does_not_come_again() -> None:
    with finite_together():
        with contextlib.suppress(NumericError), finite_together():
            require_finite(torch.tensor([math.nan]), lambda: NumericError("caught"))
        require_finite(torch.ones(2), lambda: NumericError("never"))


def test_what_was_cancelled_stays_so() -> None:
    with pytest.raises(Cancelled), finite_together():
        require_finite(torch.tensor([math.nan]), lambda: NumericError("hidden"))
        raise Cancelled("by the caller")


def test_what_is_not_finite_is_the_reason_of_what_fails_after_it() -> None:
    with pytest.raises(NumericError, match="the reason"), finite_together():
        require_finite(torch.tensor([math.nan]), lambda: NumericError("the reason"))
        raise ValueError("a consequence")
