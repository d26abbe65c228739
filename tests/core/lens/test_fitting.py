"""Fitted lenses are kept, go on where they ended, and belong to one model; published ones pass the
fences."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.fake_hub import FakeHub
from tests.core.lens.test_reading import lens_of
from tests.core.oracle import Family
from torch.utils.flop_counter import FlopCounterMode

from saescope.activations import Dataset, open_dataset
from saescope.errors import Cancelled, ConfigError, FormatError, MismatchError, NotFoundError
from saescope.formats.pickles import pickles_allowed
from saescope.lens import (
    Lens,
    find_lens,
    fit_lens,
    lens_root,
    open_lens,
    plan_lens,
    published_lenses,
)
from saescope.models import LanguageModel
from saescope.models.analysis import fit_jacobian

SMALL: dict[str, Any] = {"context_size": 16, "skip_first": 4}


@pytest.fixture
def text(tmp_path: Path) -> Dataset:
    file = tmp_path / "stories.txt"
    lines = [f"Story {i}: once upon a time there was a king of {i} lands." for i in range(40)]
    file.write_text("\n\n".join(lines), encoding="utf-8")
    return open_dataset(str(file))


def matrices(lens: Lens) -> dict[int, torch.Tensor]:
    return lens.jacobian.jacobians


def test_a_fit_is_the_mean_over_its_prompts(
    gpt2: Family, text: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[torch.Tensor]()

    def watched(model: LanguageModel, ids: torch.Tensor, **settings: object):
        found = fit_jacobian(model, ids, **settings)  # type: ignore[arg-type]
        seen.append(found[0])
        return found

    monkeypatch.setattr("saescope.lens.fit.fit_jacobian", watched)
    lens = fit_lens(gpt2.model, text, n_prompts=3, **SMALL)
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1])
    torch.testing.assert_close(matrices(lens)[0], torch.stack(seen).mean(0))
    assert lens.facts.n_prompts == 3 and lens.facts.layers == [0, 1]
    deviation = torch.stack(seen).std(0).norm() / 3**0.5
    assert lens.facts.errors is not None
    assert lens.facts.errors[0] == pytest.approx(
        float(deviation / matrices(lens)[0].norm()), rel=1e-4
    )
    assert (lens.facts.lens, lens.facts.corpus) == ("jacobian", "stories.txt")


def test_a_fit_goes_on_where_it_ended_with_the_prompts_of_one_that_was_not_cut(
    gpt2: Family, text: Dataset, tmp_path: Path
) -> None:
    whole = fit_lens(gpt2.model, text, root=tmp_path / "whole", n_prompts=4, **SMALL)
    rows, calls = gpt2.model.d_model, list[int]()

    def stop(done: int, wanted: int) -> None:
        calls.append(done)
        assert wanted == 4 * rows
        if done > 2 * rows:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        fit_lens(gpt2.model, text, n_prompts=4, progress=stop, **SMALL)
    kept = find_lens(gpt2.model)
    assert kept is not None and kept.facts.n_prompts == 2
    rest = list[int]()
    resumed = fit_lens(
        gpt2.model, text, n_prompts=4, progress=lambda done, _: rest.append(done), **SMALL
    )
    assert calls == [rows, 2 * rows, 3 * rows] and rest == [3 * rows, 4 * rows]
    assert all(torch.equal(matrices(resumed)[n], matrices(whole)[n]) for n in (0, 1))
    # and what is there is not fitted again
    fit_lens(gpt2.model, text, n_prompts=4, progress=lambda done, _: rest.append(done), **SMALL)
    assert len(rest) == 2


def test_the_lens_of_most_prompts_is_found_and_only_by_its_own_model(
    gpt2: Family, llama: Family, text: Dataset
) -> None:
    assert find_lens(gpt2.model) is None
    fit_lens(gpt2.model, text, n_prompts=2, **SMALL)
    fit_lens(gpt2.model, text, n_prompts=1, context_size=12, skip_first=4)
    found = find_lens(gpt2.model)
    assert found is not None and found.facts.n_prompts == 2
    assert find_lens(llama.model) is None


def test_a_lens_that_lacks_a_wanted_layer_is_passed_over(gpt2: Family, text: Dataset) -> None:
    fit_lens(gpt2.model, text, n_prompts=2, first_layer=1, **SMALL)
    upper = find_lens(gpt2.model, layers=[1])
    assert upper is not None and upper.facts.layers == [1]
    assert find_lens(gpt2.model, layers=[0]) is None
    assert find_lens(gpt2.model, layers=[1, 2]) is not None, "the last layer needs no matrix"
    fit_lens(gpt2.model, text, n_prompts=1, **SMALL)
    whole = find_lens(gpt2.model, layers=[0])
    assert whole is not None and whole.facts.n_prompts == 1


def test_a_plan_has_the_cost_that_torch_counts(
    llama: Family, text: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, counted, plain = plan_lens(llama.model), list[int](), torch.autograd.grad

    def counting(*given: Any, **settings: Any) -> tuple[torch.Tensor, ...]:
        with FlopCounterMode(display=False) as counter:
            found = plain(*given, **settings)
        # Products with weights alone: those of attention with itself are not in the plan.
        counted.append(counter.get_flop_counts()["Global"][torch.ops.aten.mm])
        return found

    monkeypatch.setattr("torch.autograd.grad", counting)
    ids = torch.arange(1, plan.context_size + 1)
    fit_jacobian(llama.model, ids, layers=range(2), skip_first=plan.skip_first)
    assert counted
    # The plan counts the weights of norms too.
    assert sum(counted) == pytest.approx(plan.flops / plan.n_prompts, rel=0.01)
    upper = plan_lens(llama.model, first_layer=1)
    assert upper.flops / upper.n_prompts == pytest.approx(plan.flops / plan.n_prompts / 2)
    assert "layers 1 to 1" in str(upper)


def test_a_lens_that_was_damaged_on_disk_is_not_used(gpt2: Family, text: Dataset) -> None:
    fit_lens(gpt2.model, text, n_prompts=1, **SMALL)
    (file,) = lens_root().rglob("sums.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert find_lens(gpt2.model) is None


def test_a_plan_from_the_last_layer_is_refused_as_its_fit_is(gpt2: Family) -> None:
    for first in (gpt2.model.n_layers - 1, -1):
        with pytest.raises(ConfigError) as raised:
            plan_lens(gpt2.model, first_layer=first)
        assert raised.value.code == "OUT_OF_RANGE" and "logit lens" in raised.value.hint


def test_settings_out_of_range_are_refused(gpt2: Family) -> None:
    cases: list[dict[str, Any]] = [{"n_prompts": 0}, {"context_size": 2}, {"first_layer": 2}]
    for settings in cases:
        with pytest.raises(ConfigError) as raised:
            fit_lens(gpt2.model, **settings)
        assert raised.value.code == "OUT_OF_RANGE"


@pytest.mark.slow
def test_a_published_file_is_read_only_where_pickles_are_allowed_and_gives_the_same_matrices(
    gpt2: Family, ids: torch.Tensor, tmp_path: Path
) -> None:
    lens = lens_of(gpt2.model, ids[0])
    path = lens.save(tmp_path / "mine")
    with pytest.raises(FormatError) as raised:
        open_lens(gpt2.model, path)
    assert raised.value.code == "PICKLE_REFUSED" and "SAESCOPE_ALLOW_PICKLE" in raised.value.hint
    with pickles_allowed(True):
        opened = open_lens(gpt2.model, path)
    assert opened.facts.lens == "mine.pt" and opened.facts.n_prompts == 1
    assert all(torch.equal(matrices(opened)[n], matrices(lens)[n]) for n in (0, 1))


@pytest.mark.slow
def test_a_file_that_would_run_code_is_refused_even_where_pickles_are_allowed(
    gpt2: Family, tmp_path: Path
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    torch.save({"J": {0: torch.eye(32)}, "n_prompts": Evil()}, path)
    with pickles_allowed(True), pytest.raises(FormatError) as raised:
        open_lens(gpt2.model, path)
    assert raised.value.code == "PICKLE_REFUSED" and not marker.exists()


@pytest.mark.slow
def test_a_file_without_matrices_and_one_of_another_width_are_refused(
    gpt2: Family, tmp_path: Path
) -> None:
    torch.save({"weights": torch.eye(32)}, tmp_path / "none.pt")
    torch.save({"J": {0: torch.eye(16)}, "n_prompts": 1, "d_model": 16}, tmp_path / "narrow.pt")
    torch.save({"J": {7: torch.eye(32)}, "n_prompts": 1, "d_model": 32}, tmp_path / "deep.pt")
    with pickles_allowed(True):
        with pytest.raises(FormatError, match="no Jacobian lens"):
            open_lens(gpt2.model, tmp_path / "none.pt")
        for name in ("narrow.pt", "deep.pt"):
            with pytest.raises(MismatchError, match="does not belong"):
                open_lens(gpt2.model, tmp_path / name)


@pytest.mark.slow
def test_a_lens_on_the_hub_is_fetched_by_its_place(
    gpt2: Family, ids: torch.Tensor, fake_hub: FakeHub, tmp_path: Path
) -> None:
    path = lens_of(gpt2.model, ids[0]).save(tmp_path / "mine")
    commit = fake_hub.add("someone/lenses", {"deep/lens.pt": path.read_bytes()})
    with pickles_allowed(True):
        opened = open_lens(gpt2.model, "someone/lenses/deep/lens.pt")
    assert opened.facts.lens == "someone/lenses/deep/lens.pt"
    assert opened.facts.revision == commit


@pytest.mark.slow
def test_a_name_that_is_listed_leads_to_its_place_and_warns_of_another_model(
    gpt2: Family, ids: torch.Tensor, fake_hub: FakeHub, tmp_path: Path
) -> None:
    listed = published_lenses()["gemma-2-2b"]
    assert listed.repo_id == "neuronpedia/jacobian-lens" and len(listed.revision) == 40
    path = lens_of(gpt2.model, ids[0]).save(tmp_path / "mine")
    commit = fake_hub.add(listed.repo_id, {listed.filename: path.read_bytes()})
    fake_hub.repos[listed.repo_id][listed.revision] = fake_hub.repos[listed.repo_id][commit]
    with pickles_allowed(True):
        opened = open_lens(gpt2.model, "google/gemma-2-2b")
    assert opened.facts.revision == listed.revision
    assert opened.warnings == (
        f"The lens google/gemma-2-2b was fitted on google/gemma-2-2b, not on {gpt2.model.name}.",
    )


def test_a_name_that_is_nowhere_is_refused_with_those_that_are_like_it(
    gpt2: Family, fake_hub: FakeHub
) -> None:
    with pytest.raises(NotFoundError) as raised:
        open_lens(gpt2.model, "gemma-2-2x")
    assert raised.value.code == "LENS_NOT_FOUND" and "gemma-2-2b" in raised.value.allowed
    assert fake_hub.requests == []
