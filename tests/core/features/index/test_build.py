"""A run: stopped anywhere it goes on to the same bits; several SAEs at once are each alone; what is
found is what fits."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from scripts.build_embedded_index import pack
from tests.core.features.index.test_index import SIZE, dataset
from tests.core.oracle import Family, make_sae

import saescope as ss
from saescope.activations import sources as sources_module
from saescope.cancel import cancellable
from saescope.errors import ConfigError, FormatError, MismatchError, NumericError
from saescope.features.index import (
    FeatureIndex,
    IndexConfig,
    IndexProgress,
    IndexRun,
    find_index,
    folder_of,
    index_features,
)
from saescope.features.index import store as store_module
from saescope.features.index.manifest import write_manifest
from saescope.features.index.store import unpack
from saescope.models import LanguageModel
from saescope.saes import SAE

CFG = IndexConfig(n_tokens=1000, context_size=SIZE, prepend_bos=True, sample_tokens=10 * SIZE)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources_module.FORWARD_TOKENS, "cpu", 4 * SIZE)


def saes_of(family: Family) -> list[SAE]:
    return [
        make_sae(family, "standard"),
        make_sae(family, "skip_transcoder"),
        make_sae(family, "topk", layer=2, d_sae=40),
    ]


def content(index: FeatureIndex) -> dict[str, torch.Tensor]:
    return load_file(index.folder / "arrays.safetensors")


def same(one: FeatureIndex, other: FeatureIndex) -> bool:
    a, b = content(one), content(other)
    texts = [index.texts.ids(range(one.manifest.n_contexts)) for index in (one, other)]
    alike = (
        all(torch.equal(texts[0][n], texts[1][n]) for n in texts[0])
        and texts[0].keys() == texts[1].keys()
    )
    return alike and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stops_after(n: int, stop: threading.Event) -> Callable[[IndexProgress], None]:
    left = iter(range(n - 1))

    def report(_: IndexProgress) -> None:
        if next(left, None) is None:
            stop.set()

    return report


def test_stopped_at_any_batch_and_resumed_it_is_a_straight_run(
    gpt2: Family, tmp_path: Path
) -> None:
    saes = saes_of(gpt2)[:2]
    straight = IndexRun(gpt2.model, saes, dataset(), CFG, root=tmp_path / "straight")
    assert straight.go().state == "done"
    folder, states = tmp_path / "run", list[str]()
    for n in (1, 3, 1, 5, 100):
        stop = threading.Event()
        run = IndexRun(gpt2.model, saes, dataset(), CFG, folder=folder, root=tmp_path / "cut")
        at = run.go(report=stops_after(n, stop), stop=stop)
        states.append(at.state)
        assert at.state == "done" or (
            at.n_tokens < at.n_wanted == 1000 and list(folder.glob("ckpt-*"))
        )
    assert states == ["stopped"] * 4 + ["done"] and not list(folder.iterdir())
    assert all(
        same(one, other) for one, other in zip(straight.indexes(), run.indexes(), strict=True)
    )


def test_killed_between_checkpoints_it_goes_on_from_the_last(gpt2: Family, tmp_path: Path) -> None:
    sae = saes_of(gpt2)[0]
    straight = index_features(gpt2.model, sae, dataset(), root=tmp_path / "straight", **settings())
    run = IndexRun(
        gpt2.model, [sae], dataset(), CFG, folder=tmp_path / "run", root=tmp_path / "cut"
    )

    class Killed(BaseException):
        pass

    def report(at: IndexProgress) -> None:
        if at.n_contexts == 20:
            run.save()
        if at.n_contexts > 30:
            run.log.commit()  # as far ahead of the checkpoint as it can be
            raise Killed

    with pytest.raises(Killed):
        run.go(report=report)
    resumed = IndexRun(
        gpt2.model, [sae], dataset(), CFG, folder=tmp_path / "run", root=tmp_path / "cut"
    )
    assert resumed.log.n_contexts == 20 and resumed.go().state == "done"
    assert same(straight, resumed.indexes()[0])


def settings(n_tokens: int = 1000) -> dict[str, Any]:
    return {
        "n_tokens": n_tokens,
        "context_size": SIZE,
        "prepend_bos": True,
        "sample_tokens": 10 * SIZE,
    }


def test_cancelled_in_a_forward_pass_it_loses_nothing(gpt2: Family, tmp_path: Path) -> None:
    sae, stop = saes_of(gpt2)[0], threading.Event()
    straight = index_features(gpt2.model, sae, dataset(), root=tmp_path / "straight", **settings())
    run = IndexRun(
        gpt2.model, [sae], dataset(), CFG, folder=tmp_path / "run", root=tmp_path / "cut"
    )
    with cancellable(
        stop
    ):  # not the run's own event: the harvester hears of it, with contexts in hand
        assert run.go(report=stops_after(2, stop)).state == "stopped"
    resumed = IndexRun(
        gpt2.model, [sae], dataset(), CFG, folder=tmp_path / "run", root=tmp_path / "cut"
    )
    resumed.go()
    assert same(straight, resumed.indexes()[0])


def test_what_was_not_finite_once_is_read_again(
    gpt2: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = saes_of(gpt2)[2]
    straight = index_features(gpt2.model, sae, dataset(), root=tmp_path / "straight", **settings())
    run, stop = IndexRun(gpt2.model, [sae], dataset(), CFG, root=tmp_path), threading.Event()
    assert run.go(report=stops_after(1, stop), stop=stop).state == "stopped"
    harvester = run.harvester

    def broken(ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: x / 0 for name, x in harvester(ids).items()}

    with monkeypatch.context() as patch:
        patch.setattr(run, "harvester", broken)
        with pytest.raises(NumericError, match="not finite"):
            run.go()
    run.go()
    assert same(run.indexes()[0], straight)


def test_several_saes_in_one_pass_are_each_alone(gpt2: Family, tmp_path: Path) -> None:
    saes = saes_of(gpt2)
    together = index_features(gpt2.model, saes, dataset(), root=tmp_path / "together", **settings())
    for sae, index in zip(saes, together, strict=True):
        assert same(
            index, index_features(gpt2.model, sae, dataset(), root=tmp_path / "alone", **settings())
        )
        assert (
            index.manifest.d_sae == sae.cfg.d_sae
            and index.manifest.weights_hash == sae.weights_hash
        )


def test_a_checkpoint_of_another_run_is_refused(gpt2: Family, tmp_path: Path) -> None:
    sae, stop = saes_of(gpt2)[0], threading.Event()
    IndexRun(gpt2.model, [sae], dataset(), CFG, folder=tmp_path).go(
        report=stops_after(1, stop), stop=stop
    )
    with pytest.raises(ConfigError, match="another model, SAE, text") as caught:
        IndexRun(gpt2.model, [sae], dataset(), replace(CFG, seed=1), folder=tmp_path)
    assert caught.value.code == "CHECKPOINT_MISMATCH"
    weights = next(tmp_path.glob("ckpt-*/sae0.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(FormatError, match="No checkpoint of this run is whole"):
        IndexRun(gpt2.model, [sae], dataset(), CFG, folder=tmp_path)


def test_saes_with_and_without_bos_are_not_indexed_together(gpt2: Family) -> None:
    saes = [make_sae(gpt2, "standard", prepend_bos=bos) for bos in (True, False)]
    with pytest.raises(ConfigError, match="some with and some without BOS"):
        index_features(gpt2.model, saes, dataset())


def test_an_sae_of_another_width_is_refused(
    gpt2: Family, family_of: Callable[[str], Family]
) -> None:
    with pytest.raises(MismatchError):
        index_features(family_of("glass").model, make_sae(gpt2, "standard"), dataset())


@pytest.fixture
def indexed(gpt2: Family) -> Iterator[tuple[SAE, FeatureIndex]]:
    sae = saes_of(gpt2)[0]
    yield sae, ss.index_features(gpt2.model, sae, dataset(), **settings())


def test_the_index_is_found_by_weights_and_model(
    indexed: tuple[SAE, FeatureIndex], gpt2: Family, own_home: Path
) -> None:
    sae, index = indexed
    assert (
        index.folder.is_relative_to(own_home / "indexes")
        and folder_of(sae.weights_hash) == index.folder.parent
    )
    found = ss.find_index(sae, gpt2.model)
    assert found is not None and found.manifest == index.manifest
    larger = ss.index_features(gpt2.model, sae, dataset(), **settings(1500))
    newest = ss.find_index(sae, gpt2.model)
    assert newest is not None and newest.manifest == larger.manifest
    assert ss.find_index(saes_of(gpt2)[1], gpt2.model) is None


def test_an_index_of_another_model_or_a_damaged_one_is_passed_over_and_said(
    indexed: tuple[SAE, FeatureIndex], family_of: Callable[[str], Family]
) -> None:
    sae, index = indexed
    said = list[str]()
    assert find_index(sae, family_of("glass").model, say=said.append) is None
    assert "made with the model tiny-gpt2" in said[0]
    arrays = index.folder / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1])
    assert find_index(sae, say=said.append) is None and "damaged" in said[1]
    with pytest.raises(FormatError) as caught:
        FeatureIndex.open(index.folder)
    assert caught.value.code == "INDEX_CORRUPT"


def test_no_folder_of_this_machine_is_in_the_manifest(gpt2: Family, tmp_path: Path) -> None:
    file = tmp_path / "private" / "text.txt"
    file.parent.mkdir()
    file.write_text("Alice said that the garden was big. " * 40)
    index = ss.index_features(gpt2.model, saes_of(gpt2)[0], str(file), context_size=SIZE)
    assert index.manifest.dataset == "text.txt"
    assert str(tmp_path) not in (index.folder / "manifest.json").read_text()


def test_a_packed_index_opens_only_for_its_own_weights(
    indexed: tuple[SAE, FeatureIndex], gpt2: Family, tmp_path: Path
) -> None:
    sae, index = indexed
    packed = tmp_path / "index.zip"
    pack(index, packed)
    unpack(tmp_path / "home", saes_of(gpt2)[1].weights_hash, packed)
    assert not (tmp_path / "home").exists()
    unpack(tmp_path / "home", sae.weights_hash, packed)
    found = find_index(sae, gpt2.model, root=tmp_path / "home")
    assert found is not None and found.manifest == index.manifest and same(found, index)
    assert packed.stat().st_size < sum(index.manifest.files.values())


def test_an_index_of_another_model_of_the_same_name_is_passed_over(
    indexed: tuple[SAE, FeatureIndex], gpt2: Family
) -> None:
    (sae, index), said = indexed, list[str]()
    root = index.folder.parent.parent
    weight: Any = gpt2.model.bridge.original_model.get_input_embeddings().weight
    with torch.no_grad():
        before = weight[5, 3].clone()
        weight[5, 3] += 1e-3
        assert find_index(sae, gpt2.model, root=root, say=said.append) is None
        weight[5, 3] = before
    assert "another model called" in said[0]
    found = find_index(sae, gpt2.model, root=root)
    assert found is not None and found.warnings == []


@pytest.mark.parametrize("case", ["no fingerprint", "another dtype"])
def test_an_index_that_the_name_of_its_model_alone_speaks_for_is_used_with_a_warning(
    case: str, indexed: tuple[SAE, FeatureIndex], gpt2: Family, tmp_path: Path
) -> None:
    sae, index = indexed
    folder = folder_of(sae.weights_hash, tmp_path) / "old"
    shutil.copytree(index.folder, folder)
    halved = replace(index.manifest, settings=index.manifest.settings | {"dtype": "bfloat16"})
    nameless = replace(index.manifest, model_fingerprint="")
    write_manifest(folder, nameless if case == "no fingerprint" else halved)
    found = find_index(sae, gpt2.model, root=tmp_path)
    assert found is not None and "whether the model is this one" in found.warnings[0]


@pytest.mark.model
def test_the_packaged_index_is_of_the_packaged_model(
    smollm: LanguageModel, embedded_sae: SAE
) -> None:
    found = find_index(embedded_sae, smollm)
    assert found is not None and found.warnings == []


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= 1 << (place % 8)
    file.write_bytes(bytes(content))


def test_a_flipped_bit_anywhere_is_a_coded_error(
    indexed: tuple[SAE, FeatureIndex], tmp_path: Path
) -> None:
    rng = torch.Generator().manual_seed(0)
    for name in ("arrays.safetensors", "texts.db", "manifest.json"):
        for place in torch.randint(10**6, (25,), generator=rng).tolist():
            folder = tmp_path / f"{name}-{place}"
            shutil.copytree(indexed[1].folder, folder)
            flip(folder / name, place)
            with pytest.raises(FormatError) as raised:
                FeatureIndex.open(folder)
            assert raised.value.code == "INDEX_CORRUPT" and "index_features" in str(
                raised.value.hint
            )


def test_what_changes_after_the_index_was_opened_is_noticed_when_it_is_read(
    indexed: tuple[SAE, FeatureIndex], tmp_path: Path
) -> None:
    asked: list[Callable[[FeatureIndex], Any]] = [
        lambda index: index.statistics(3),
        lambda index: index.maxima,
        lambda index: index.typical,
        lambda index: index.cofiring(3),
    ]
    for i, ask in enumerate(asked):
        folder = tmp_path / str(i)
        shutil.copytree(indexed[1].folder, folder)
        index = FeatureIndex.open(folder)
        flip(folder / "arrays.safetensors", 5000)
        with pytest.raises(FormatError, match=r"arrays\.safetensors is not as it was written"):
            ask(index)
    folder = tmp_path / "texts"
    shutil.copytree(indexed[1].folder, folder)
    index = FeatureIndex.open(folder)
    flip(folder / "texts.db", 5000)
    with pytest.raises(FormatError, match=r"texts\.db is not as it was written"):
        index.texts.ids([0])


def test_a_damaged_index_gives_way_to_the_last_good_one_and_stays_where_it_is(
    gpt2: Family, tmp_path: Path
) -> None:
    sae = saes_of(gpt2)[0]
    small = index_features(gpt2.model, sae, dataset(), root=tmp_path, **settings(n_tokens=300))
    large = index_features(gpt2.model, sae, dataset(), root=tmp_path, **settings(n_tokens=900))
    said: list[str] = []
    flip(small.folder / "arrays.safetensors", 4000)  # it is not read while there is a better one
    found = find_index(sae, gpt2.model, root=tmp_path, say=said.append)
    assert found is not None and found.folder == large.folder and said == []
    flip(small.folder / "arrays.safetensors", 4000)
    flip(large.folder / "arrays.safetensors", 4000)
    found = find_index(sae, gpt2.model, root=tmp_path, say=said.append)
    assert found is not None and found.folder == small.folder and large.folder.is_dir()
    assert len(said) == 1 and "damaged" in said[0]


def test_the_packed_index_is_unpacked_again_where_its_copy_is_damaged(
    indexed: tuple[SAE, FeatureIndex],
    gpt2: Family,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sae, index = indexed
    packed = tmp_path / "index.zip"
    pack(index, packed)
    monkeypatch.setattr(store_module, "PACKED", packed)
    home, said = tmp_path / "home", list[str]()
    unpack(home, sae.weights_hash, packed)
    (folder,) = folder_of(sae.weights_hash, home).iterdir()
    flip(folder / "arrays.safetensors", 4000)
    found = find_index(sae, gpt2.model, root=home, say=said.append)
    assert found is not None and same(found, index) and len(said) == 1
    flip(packed, packed.stat().st_size // 2)
    flip(folder / "arrays.safetensors", 4000)
    assert find_index(sae, gpt2.model, root=home, say=said.append) is None and len(said) == 2


def test_an_index_of_an_earlier_version_is_read_and_says_what_it_lacks(
    indexed: tuple[SAE, FeatureIndex], tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(indexed[1].folder, old)
    said = json.loads((old / "manifest.json").read_text())
    for name in ("n_sinks", "sha256", "sha256_of_the_rest"):
        del said[name]
    (old / "manifest.json").write_text(json.dumps(said | {"format": 1}))
    index = FeatureIndex.open(old)
    assert index.typical is None and "index_features" in index.warnings[0]
    row, now = index.statistics(3), indexed[1].statistics(3)
    assert row.typical is None and row.n_fired == now.n_fired and row.max == now.max
    assert indexed[1].warnings == []
