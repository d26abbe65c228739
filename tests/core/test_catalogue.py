"""The catalogue: complete, honest about what it does not know, quick, and right about sites."""

import os
import subprocess
import sys
import time
from collections import Counter
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from saescope import catalogue
from saescope.catalogue import Entry, find_saes, get, hub_cache, model_size, releases
from saescope.catalogue.search import canonical_model
from saescope.catalogue.sites import weights_file
from saescope.errors import ArgumentError, NotFoundError
from saescope.hub import first_name, resolve
from saescope.hub.location import checked_path

ALL = [entry for saes in releases().values() for entry in saes.values()]


def test_nothing_of_the_registry_is_missing() -> None:
    assert (len(releases()), len(ALL)) == (170, 13_857)
    assert sum(bool(entry.neuronpedia_id) for entry in ALL) == 2_441
    assert sum(entry.l0 is not None for entry in ALL) == 12_147
    assert sum(entry.explained_variance is not None for entry in ALL) == 78
    assert sum("norm_scaling_factor" in entry.known for entry in ALL) == 304
    said = {"dataset_path", "model_from_pretrained_kwargs", "normalize_activations"}
    known = [set(next(iter(saes.values())).known) for saes in releases().values()]
    assert sum(bool(names & said) for names in known) == 15


def test_what_is_unknown_is_null_and_not_zero() -> None:
    assert all(entry.l0 is None or entry.l0 > 0 for entry in ALL)
    unknown = get("gpt2-small-res_scefr-ajt", "blocks.2.hook_resid_pre")
    assert (unknown.l0, unknown.explained_variance, unknown.d_sae, unknown.architecture) == (
        None,
        None,
        None,
        "",
    )


def test_the_quirks_of_the_registry_end_at_the_door() -> None:
    assert [*releases()["gpt2-small-res_scefr-ajt"]] == [
        f"blocks.{layer}.hook_resid_pre" for layer in (2, 6, 10)
    ]
    assert get("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_7").path == "7"
    assert {entry.model for entry in releases()["gemma-scope-9b-it-res"].values()} == {
        "gemma-2-9b-it"
    }
    alias = get("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical")
    assert (
        alias.path == "layer_12/width_16k/average_l0_82"
        and alias.neuronpedia_id == "gemma-2-2b/12-gemmascope-res-16k"
    )


def test_the_packaged_file_is_small() -> None:
    assert len(files(catalogue).joinpath("data.json.gz").read_bytes()) < 400_000


def test_every_entry_resolves_to_a_dialect_and_its_files() -> None:
    from saescope.formats import BY_NAME

    assert {entry.dialect for entry in ALL} <= BY_NAME.keys()
    lost = [entry for entry in ALL if not _wanted(BY_NAME[entry.dialect].wanted(entry.path), entry)]
    assert not lost, lost[:3]
    assert all(checked_path(weights_file(entry.dialect, entry.path)) for entry in ALL)


def _wanted(patterns: tuple[str, ...], entry: Entry) -> bool:
    file = weights_file(entry.dialect, entry.path)
    return any(file == pattern or fnmatchcase(file, pattern) for pattern in patterns)


def test_every_name_resolves_and_so_does_its_place() -> None:
    for entry in ALL:
        location = resolve(entry.release, entry.sae_id)
        assert (location.repo_id, location.path, location.dialect) == (
            entry.repo_id,
            entry.path,
            entry.dialect,
        )
        assert resolve(entry.repo_id, entry.path).dialect == entry.dialect


@pytest.mark.parametrize(
    ("release", "sae_id", "hook_name", "d_sae", "architecture"),
    [
        (
            "gpt2-small-res-jb",
            "blocks.8.hook_resid_pre",
            "blocks.8.hook_resid_pre",
            None,
            "standard",
        ),
        (
            "gpt2-small-res-jb-feature-splitting",
            "blocks.8.hook_resid_pre_1536",
            "blocks.8.hook_resid_pre",
            1536,
            "standard",
        ),
        (
            "gpt2-small-resid-post-v5-128k",
            "blocks.11.hook_resid_post",
            "blocks.11.hook_resid_post",
            131072,
            "topk",
        ),
        ("gpt2-small-hook-z-kk", "blocks.5.hook_z", "blocks.5.attn.hook_z", 49152, "standard"),
        ("gpt2-small-mlp-tm", "blocks.0.hook_mlp_out", "blocks.0.hook_mlp_out", 24576, "standard"),
        (
            "gemma-2b-res-jb",
            "blocks.6.hook_resid_post",
            "blocks.6.hook_resid_post",
            16384,
            "standard",
        ),
        (
            "gemma-scope-2b-pt-res",
            "embedding/width_4k/average_l0_6",
            "hook_embed",
            4096,
            "jumprelu",
        ),
        (
            "gemma-scope-9b-pt-att-canonical",
            "layer_3/width_131k/canonical",
            "blocks.3.attn.hook_z",
            131072,
            "jumprelu",
        ),
        (
            "gemma-scope-2b-pt-transcoders",
            "layer_0/width_16k/average_l0_76",
            "blocks.0.ln2.hook_normalized",
            16384,
            "jumprelu_transcoder",
        ),
        (
            "gemma-scope-2-4b-pt-res",
            "layer_17_width_16k_l0_big",
            "blocks.17.hook_resid_post",
            16384,
            "jumprelu",
        ),
        (
            "gemma-scope-2-4b-pt-att",
            "layer_9_width_65k_l0_small",
            "blocks.9.attn.hook_z",
            65536,
            "jumprelu",
        ),
        (
            "gemma-scope-2-27b-it-transcoders-all",
            "layer_9_width_262k_l0_small_affine",
            "blocks.9.mlp.hook_in",
            262144,
            "jumprelu_skip_transcoder",
        ),
        ("llama_scope_lxa_8x", "l31a_8x", "blocks.31.hook_attn_out", 32768, "jumprelu"),
        ("llama_scope_lxm_32x", "l0m_32x", "blocks.0.hook_mlp_out", 131072, "jumprelu"),
        (
            "llama_scope_r1_distill",
            "l31r_800m_openr1_math",
            "blocks.31.hook_resid_post",
            None,
            "jumprelu",
        ),
        ("qwen-scope-3.5-27b-w80k-l50", "layer63", "blocks.63.hook_resid_post", 81920, "topk"),
        ("mwhanna-qwen3-4b-transcoders", "layer_35", "blocks.35.mlp.hook_in", None, "transcoder"),
        (
            "sae_bench_gemma-2-2b_topk_width-2pow14_date-1109",
            "blocks.5.hook_resid_post__trainer_5_step_46322",
            "blocks.5.hook_resid_post",
            16384,
            "topk",
        ),
        (
            "llama-3.1-8b-instruct-andyrdt",
            "resid_post_layer_27_trainer_1",
            "blocks.27.hook_resid_post",
            None,
            "",
        ),
        (
            "goodfire-llama-3.3-70b-instruct",
            "layer_50",
            "blocks.50.hook_resid_post",
            None,
            "standard",
        ),
        (
            "deepseek-r1-distill-llama-8b-qresearch",
            "blocks.19.hook_resid_post",
            "blocks.19.hook_resid_post",
            None,
            "standard",
        ),
        (
            "temporal-sae-llama-3.1-8b",
            "blocks.26.hook_resid_post",
            "blocks.26.hook_resid_post",
            None,
            "temporal",
        ),
        ("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_25", "", None, "transcoder"),
    ],
)
def test_names_tell_site_width_and_architecture(
    release: str, sae_id: str, hook_name: str, d_sae: int | None, architecture: str
) -> None:
    entry = get(release, sae_id)
    assert (entry.hook_name, entry.d_sae, entry.architecture) == (hook_name, d_sae, architecture)


def test_sites_are_counted_as_the_fact_sheet_counts_them() -> None:
    gemma_3 = Counter(
        entry.hook_name.split(".", 2)[2] for entry in ALL if entry.dialect == "gemma_3"
    )
    assert gemma_3 == {
        "hook_resid_post": 2024,
        "mlp.hook_in": 3576,
        "hook_mlp_out": 1604,
        "attn.hook_z": 1580,
    }
    assert sum(entry.architecture.endswith("skip_transcoder") for entry in ALL) == 1794
    assert all(
        f".{entry.layer}." in entry.hook_name
        for entry in ALL
        if entry.hook_name not in ("", "hook_embed")
    )


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("gemma-2b-res", "gemma-2b-res-jb"),
        ("gpt2-small-res-jbb", "gpt2-small-res-jb"),
        ("GPT2-small-res-jb", "gpt2-small-res-jb"),
        ("gemma-scope-2b-res", "gemma-scope-2b-pt-res"),
        ("llama_scope_lxr_8", "llama_scope_lxr_8x"),
    ],
)
def test_a_typo_in_a_release_names_what_was_meant(typo: str, meant: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        resolve(typo, "blocks.8.hook_resid_pre")
    assert (
        caught.value.code == "RELEASE_NOT_FOUND"
        and meant in str(caught.value)
        and f'"{meant}"' in caught.value.hint
    )


def test_a_typo_in_an_id_names_the_nearest() -> None:
    with pytest.raises(NotFoundError) as caught:
        resolve("gpt2-small-res-jb", "blocks.8.hook_resid_prre")
    assert caught.value.code == "SAE_NOT_FOUND"
    assert 'sae_id="blocks.8.hook_resid_pre"' in caught.value.hint


def test_a_release_of_many_asks_for_an_id() -> None:
    with pytest.raises(ArgumentError) as caught:
        resolve("gpt2-small-res-jb", "")
    assert (caught.value.code, caught.value.field) == ("MISSING_ARGUMENT", "sae_id")


@pytest.mark.parametrize(
    ("wanted", "total"),
    [
        ({}, 13_857),
        ({"query": "gemma-2b-res"}, 5),
        ({"query": "gpt2-small-res-jb layer 8"}, 9),
        ({"model": "gemma-2b"}, 5),
        ({"model": "gpt2"}, 159),
        ({"model": "openai-community/gpt2", "layer": 8, "site": "resid_pre"}, 9),
        ({"model": "google/gemma-2-2b", "architecture": "transcoder"}, 52),
        ({"model": "Qwen/Qwen3-4B"}, 36),
        ({"architecture": "jumprelu_skip_transcoder"}, 1794),
        ({"site": "z"}, 2480),
        ({"site": "mlp.hook_in"}, 3784),
        ({"site": "blocks.8.hook_resid_pre"}, 10),
        ({"query": "no such words at all"}, 0),
    ],
)
def test_find_counts_what_fits(wanted: dict[str, object], total: int) -> None:
    assert find_saes(**wanted).total == total  # pyright: ignore[reportArgumentType]


def test_width_and_l0_can_be_asked_for() -> None:
    page = find_saes(query="width 16k l0 71", model="gemma-2-2b", limit=100)
    assert page.total == 4 and all((row.d_sae, row.l0) == (16384, 71) for row in page.saes)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"model": "gemma 2 9b"}, {"model": "gemma-2-9b"}),
        ({"model": "Llama 3.1 8B"}, {"model": "meta-llama/Llama-3.1-8B"}),
        ({"model": "gpt2 small"}, {"model": "gpt2-small"}),
        ({"model": "llama8b"}, {"model": "llama-8b"}),
        ({"query": "gpt-2-small-res-jb"}, {"query": "gpt2-small-res-jb"}),
        ({"query": "gemmascope 9b"}, {"query": "gemma-scope 9b"}),
        ({"query": "layer-12 width-16k"}, {"query": "layer 12 width 16k"}),
        ({"site": "resid post"}, {"site": "resid_post"}),
        ({"site": "mlp-out"}, {"site": "mlp_out"}),
        ({"architecture": "jump-relu"}, {"architecture": "jumprelu"}),
        ({"architecture": "matryoshka batch topk"}, {"architecture": "matryoshka_batchtopk"}),
    ],
)
def test_hyphens_and_blanks_do_not_matter(said: dict[str, Any], meant: dict[str, Any]) -> None:
    found, wanted = (find_saes(**each, limit=1000) for each in (said, meant))
    assert found.total == wanted.total > 0
    assert {(row.release, row.sae_id) for row in found.saes} == {
        (row.release, row.sae_id) for row in wanted.saes
    }


def test_a_release_of_that_name_comes_first_however_it_is_written() -> None:
    for query in ("gpt2-small-res-jb", "gpt2 small res jb", "GPT2_small res-jb"):
        assert find_saes(query=query).saes[0].release == "gpt2-small-res-jb"


PUBLISHED = {
    "gpt2": 124_439_808,
    "EleutherAI/pythia-70m-deduped": 70_426_624,
    "EleutherAI/pythia-12b": 11_846_072_320,
    "google/gemma-2b-it": 2_506_172_416,
    "gemma-2-2b": 2_614_341_888,
    "gemma 2 9b it": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-270m": 268_098_176,
    "google/gemma-3-1b-pt": 999_885_952,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "mistralai/Mistral-7B-Instruct-v0.1": 7_241_732_096,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "Qwen/Qwen3-30B-A3B-Base": 30_532_122_624,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
}
"""The number of weights that each model's page publishes."""


@pytest.mark.parametrize(("name", "n_weights"), PUBLISHED.items())
def test_a_known_model_has_as_many_weights_as_its_page_says(name: str, n_weights: int) -> None:
    size = model_size(name)
    assert size is not None and size.counted
    assert size.n_parameters == n_weights
    assert size.n_bytes("float32") == 4 * n_weights == 2 * size.n_bytes("bfloat16")
    assert 0 < size.n_inner < size.n_parameters


def test_most_models_of_the_catalogue_have_a_size_and_a_name_is_the_last_resort() -> None:
    models = {entry.model for saes in releases().values() for entry in saes.values()}
    sizes = {model: model_size(model) for model in models}
    assert None not in sizes.values()
    assert {model for model, size in sizes.items() if size and not size.counted} == {
        "openai/gpt-oss-20b",
        "Qwen/Qwen3.5-2B-Base",
        "Qwen/Qwen3.5-27B",
    }
    said = model_size("someone/new-1.5b-chat")
    assert said and (said.n_parameters, said.counted) == (1_500_000_000, False)
    mixture = model_size("someone/mixture-8x7b")
    assert mixture and mixture.n_parameters == 56_000_000_000
    assert model_size("someone/nameless") is None


def test_layer_1_is_not_layer_12() -> None:
    assert {
        (row.hook_name or "").split(".")[1]
        for row in find_saes(query="layer 1", model="gpt2-small", limit=100).saes
    } == {"1"}


def test_pages_join_to_the_whole() -> None:
    whole = find_saes(model="gemma-2-9b", limit=1000).saes
    assert [
        row
        for offset in range(0, 1000, 300)
        for row in find_saes(model="gemma-2-9b", limit=300, offset=offset).saes
    ][:1000] == whole
    assert find_saes(model="gemma-2-9b", offset=10_000) == (
        [],
        find_saes(model="gemma-2-9b").total,
        [],
    )


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("limit", 1001), ("offset", -1)])
def test_a_page_that_cannot_be_is_refused(name: str, value: int) -> None:
    with pytest.raises(ArgumentError) as caught:
        find_saes(**{name: value})  # pyright: ignore[reportArgumentType]
    assert (caught.value.code, caught.value.field) == ("OUT_OF_RANGE", name)


def test_nothing_found_is_no_error_and_names_the_nearest() -> None:
    assert find_saes(query="gpt2-small-res-jbb").nearest[0] == "gpt2-small-res-jb"
    assert find_saes(model="gmma-2-2b").nearest[0] == "gemma-2-2b"
    assert find_saes(query="gpt2").nearest == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gpt2", "openai-community/gpt2"),
        ("gpt2", "gpt2-small"),
        ("gemma2-2b", "google/gemma-2-2b"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("Meta-Llama-3-8B-Instruct", "llama-3-8b-instruct"),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b"),
        ("google/gemma-3-270m-pt", "gemma-3-270m"),
    ],
)
def test_a_model_has_many_spellings(one: str, other: str) -> None:
    assert canonical_model(one) == canonical_model(other)
    assert canonical_model("gemma-2b") != canonical_model("gemma-2-2b")


def test_looking_up_takes_less_than_50_ms() -> None:
    find_saes(query="warm up")
    for wanted in (
        {"query": "gpt2-small-res-jb"},
        {"query": "gemma resid 16k", "layer": 12},
        {"query": "nothng-lik ths"},
        {},
    ):
        times: list[float] = []
        for _ in range(20):
            start = time.perf_counter()
            find_saes(**wanted, limit=100)  # pyright: ignore[reportArgumentType]
            times.append(time.perf_counter() - start)
        assert min(times) < 0.05, (wanted, times)


def test_the_catalogue_needs_no_torch_and_no_hub() -> None:
    code = """
import sys
from saescope import catalogue, hub
catalogue.find_saes(query="gpt2")
hub.resolve("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
print([name for name in ("torch", "huggingface_hub", "httpx") if name in sys.modules])
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert done.stdout.strip() == "[]"


def test_cached_says_what_is_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = (
        tmp_path
        / "models--jbloom--GPT2-Small-SAEs-Reformatted"
        / "snapshots"
        / ("a" * 40)
        / "blocks.8.hook_resid_pre"
    )
    assert not any(row.cached for row in find_saes(query="gpt2-small-res-jb", limit=100).saes)
    snapshot.mkdir(parents=True)
    (snapshot / "cfg.json").touch()
    assert not any(row.cached for row in find_saes(query="gpt2-small-res-jb", limit=100).saes)
    (snapshot / "sae_weights.safetensors").touch()
    assert [
        row.sae_id for row in find_saes(query="gpt2-small-res-jb", limit=100).saes if row.cached
    ] == ["blocks.8.hook_resid_pre"]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"HF_HUB_CACHE": "a/b"},
        {"HUGGINGFACE_HUB_CACHE": "c"},
        {"HF_HOME": "~/d"},
        {"XDG_CACHE_HOME": "e"},
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {
        name: value if value.startswith("~") else str(tmp_path / value)
        for name, value in given.items()
    }
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert str(hub_cache()) == done.stdout.strip()


CANONICAL = ("gemma-scope-2b-pt-res-canonical", "layer_20/width_16k/canonical")
FIRST = ("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71")


def test_the_names_of_one_place_share_what_is_known_of_it() -> None:
    known = [
        resolve(*name).known
        for name in (CANONICAL, FIRST, ("google/gemma-scope-2b-pt-res", FIRST[1]))
    ]
    assert known[0] == known[1] == known[2]
    assert (known[0]["l0"], known[0]["neuronpedia_id"]) == (71, "gemma-2-2b/20-gemmascope-res-16k")


def test_one_of_several_names_stands_for_all() -> None:
    assert (
        first_name(*CANONICAL)
        == first_name(*FIRST)
        == first_name("google/gemma-scope-2b-pt-res", FIRST[1])
        == FIRST
    )
    assert first_name("someone/saes", "x/y") == ("someone/saes", "x/y")
    with pytest.raises(NotFoundError):
        first_name("gemma-scope-2b-pt-ress", "x")


def test_what_is_on_this_machine_is_listed_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert catalogue.on_this_machine() == []
    folder = tmp_path / "models--google--gemma-scope-2b-pt-res" / "snapshots"
    for commit in ("abc", "def"):
        file = folder / commit / FIRST[1] / "params.npz"
        file.parent.mkdir(parents=True)
        file.touch()
    assert [(entry.release, entry.sae_id) for entry in catalogue.on_this_machine()] == [FIRST]
