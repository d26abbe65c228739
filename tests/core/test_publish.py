"""Publishing: to a folder and, through the real huggingface_hub client, to a hub on loopback;
nothing is overwritten or given away."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.core.fake_hub import FakeHub

from saescope.errors import ArgumentError, OfflineError, ResourceError, SaescopeError
from saescope.evals import (
    Baseline,
    Baselines,
    CrossEntropy,
    Evaluation,
    Interval,
    KLDivergence,
    Reason,
    Shrinkage,
    Verdict,
)
from saescope.hub import transfer, upload
from saescope.load import load_sae
from saescope.publish import publish_sae
from saescope.publish.writing import ASIDE
from saescope.saes import (
    ARCHITECTURES,
    SAE,
    BatchTopKConfig,
    BatchTopKSAE,
    SAEMetadata,
    TopKConfig,
    TopKSAE,
)
from saescope.verdicts import Quality

# huggingface_hub hands httpx the content of a large file in a way that httpx has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"
)

REPO, HOOK = "someone/my-saes", "blocks.1.hook_resid_post"
TOKEN = "hf_" + "s3cretS3cretS3cretS3cret"
EVALUATION = Evaluation(
    dataset="/home/someone/texts/story.txt",
    hook_name=HOOK,
    hook_name_out=HOOK,
    n_tokens=20_000,
    n_sinks=0,
    n_contexts=160,
    n_documents=140,
    context_size=128,
    seed=0,
    l0=8.0,
    explained_variance=0.8123456,
    mse=12.5,
    cosine=0.9,
    ce=CrossEntropy(3.0, 3.1, 9.0, 8.0),
    ce_score=0.98333,
    kl=KLDivergence(0.1, 5.0),
    kl_score=0.98,
    dead_share=0.02,
    dense_share=0.001,
    shrinkage=Shrinkage(0.97, 1.01),
    density=(),
    positions=(),
    baselines=Baselines(Baseline(8, 0.1, 0.2), Baseline(8, 0.4, 0.5), 60),
    intervals={"explained_variance": Interval(0.80, 0.82)},
    saelens={},
    verdict=Verdict(
        Quality.GOOD,
        "The SAE reconstructs most of it.",
        (Reason("The features explain 81% of the variance."),),
    ),
    warnings=(),
)


def topk(dtype: torch.dtype = torch.float32, **metadata: Any) -> TopKSAE:
    torch.manual_seed(0)
    raw = {"dataset_path": "/home/someone/texts", "training_tokens": 1000, "seed": 3}
    said: dict[str, Any] = {
        "model_name": "owner/model",
        "hook_name": HOOK,
        "context_size": 64,
        "raw": raw,
        **metadata,
    }
    meta = SAEMetadata(**said)
    cfg = TopKConfig(d_in=32, d_sae=256, k=8, metadata=meta)
    return TopKSAE(
        cfg, {name: torch.randn(shape, dtype=dtype) for name, shape in TopKSAE.shapes(cfg).items()}
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    import huggingface_hub.constants
    from huggingface_hub.utils import close_session

    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        huggingface_hub.constants, "HF_HUB_DISABLE_XET", True
    )  # the fake speaks LFS
    for name, value in {
        "HF_ENDPOINT": fake.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(transfer, "BACKOFF_S", 0.01)
    close_session()
    yield fake
    close_session()
    fake.close()


def refused(kind: type[SaescopeError], call: Any) -> SaescopeError:
    with pytest.raises(kind) as caught:
        call()
    text = f"{caught.value} {caught.value.hint} {caught.value.got} {caught.value.__dict__}"
    assert TOKEN not in text and (
        caught.value.__suppress_context__ or caught.value.__context__ is None
    )
    return caught.value


def test_a_dry_run_writes_nothing_and_says_the_exact_sizes(tmp_path: Path) -> None:
    target, sae = tmp_path / "mine", topk()
    planned = publish_sae(sae, path=target, evaluation=EVALUATION)
    assert not target.exists() and not planned.written
    done = publish_sae(sae, path=target, evaluation=EVALUATION, dry_run=False)
    assert done.written and done.files == planned.files and done.card == planned.card
    assert {file.name: file.n_bytes for file in done.files} == {
        file.name: file.stat().st_size for file in target.iterdir()
    }
    assert {file.name for file in done.files} == {
        "cfg.json",
        "sae_weights.safetensors",
        "README.md",
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_was_published_loads_back_by_the_command_that_is_named(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    sae = topk(dtype)
    done = publish_sae(sae, path=tmp_path / "mine", dry_run=False)
    import saescope as ss

    again: SAE = eval(done.load.saescope, {"ss": ss})
    assert torch.equal(again.W_dec, sae.W_dec.float()) and again.cfg.metadata.hook_name == HOOK
    assert done.load.sae_lens == f"SAE.load_from_disk({str(tmp_path / 'mine')!r})"
    assert done.load.tool.startswith("load_sae(path=") and done.load.command.startswith(
        "saescope load-sae --path "
    )


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    publish_sae(topk(), path=tmp_path / "mine", dry_run=False)
    for dry_run in (True, False):
        error = refused(
            ArgumentError,
            lambda dry_run=dry_run: publish_sae(topk(), path=tmp_path / "mine", dry_run=dry_run),
        )
        assert error.code == "ALREADY_EXISTS" and "README.md" in error.message
    (tmp_path / "file").write_text("mine")
    assert (
        refused(ArgumentError, lambda: publish_sae(topk(), path=tmp_path / "file")).code
        == "ALREADY_EXISTS"
    )
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("my notes")
    assert (
        refused(
            ArgumentError, lambda: publish_sae(topk(), path=tmp_path / "notes", dry_run=False)
        ).code
        == "ALREADY_EXISTS"
    )
    assert (tmp_path / "notes" / "README.md").read_text() == "my notes"


@pytest.mark.parametrize("there", ["thesis.md", ".git", "sub"])
def test_only_a_new_or_an_empty_folder_is_written(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / there).mkdir()
    for path in (".", "./", str(tmp_path), f"{there}/.."):
        for dry_run in (True, False):
            error = refused(
                ArgumentError,
                lambda path=path, dry=dry_run: publish_sae(topk(), path=path, dry_run=dry),
            )
            assert error.code == "ALREADY_EXISTS" and there in error.message
    assert [file.name for file in tmp_path.iterdir()] == [there]
    assert publish_sae(topk(), path=tmp_path / there, dry_run=False).written


@pytest.mark.parametrize("left", [[], ["README.md"], ["README.md", "cfg.json"]])
def test_a_publication_that_was_killed_is_no_sae_and_its_folder_is_taken_again(
    left: list[str], tmp_path: Path
) -> None:
    whole = Path(publish_sae(topk(), path=tmp_path / "whole", dry_run=False).target)
    cut_off = tmp_path / "cut-off"
    shutil.copytree(whole, cut_off / f"{ASIDE}x1")
    for name in left:
        (cut_off / f"{ASIDE}x1" / name).rename(cut_off / name)
    with pytest.raises(SaescopeError):
        load_sae(cut_off)
    assert publish_sae(topk(), path=cut_off, dry_run=False).written
    assert {file.name for file in cut_off.iterdir()} == {file.name for file in whole.iterdir()}
    assert load_sae(cut_off).weights_hash == load_sae(whole).weights_hash
    with pytest.raises(ArgumentError, match=r"already holds README\.md"):
        publish_sae(topk(), path=cut_off)


def test_what_another_put_into_a_folder_that_was_cut_off_stays(tmp_path: Path) -> None:
    (tmp_path / "mine" / f"{ASIDE}x1").mkdir(parents=True)
    (tmp_path / "mine" / "thesis.md").write_text("mine")
    with pytest.raises(ArgumentError, match=r"already holds thesis\.md"):
        publish_sae(topk(), path=tmp_path / "mine", dry_run=False)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert (
        refused(
            ResourceError,
            lambda: publish_sae(topk(), path=tmp_path / "file" / "below", dry_run=False),
        ).code
        == "CANNOT_WRITE"
    )


def test_exactly_one_target_is_needed(tmp_path: Path) -> None:
    for given in ({}, {"path": tmp_path / "mine", "repo_id": REPO}):
        assert (
            refused(ArgumentError, lambda given=given: publish_sae(topk(), **given)).code
            == "MISSING_ARGUMENT"
        )


def test_the_card_has_numbers_loading_and_provenance(tmp_path: Path) -> None:
    card = publish_sae(topk(), path=tmp_path / "mine", evaluation=EVALUATION).card
    front = card.split("---")[1]
    assert 'base_model: "owner/model"' in front and 'library_name: "saelens"' in front
    for part in (
        "| explained variance | 0.8123 | 0.8 to 0.82 |",
        "| CE score | 0.9833 |",
        "PCA, 8 directions | 0.4 | 0.5 |",
        "**good**",
    ):
        assert part in card
    for part in (
        "ss.load_sae(",
        "SAE.load_from_disk(",
        "saescope load-sae",
        "| training_tokens | 1000 |",
        topk().weights_hash,
    ):
        assert part in card
    assert "Not evaluated" in publish_sae(topk(), path=tmp_path / "mine").card


def test_paths_of_this_machine_stay_here(tmp_path: Path) -> None:
    sae = topk(
        model_name="/home/someone/models/tiny",
        raw={"dataset_path": "/home/someone/texts/a.txt", "cfg": {"dir": "~/secret/x"}},
    )
    done = publish_sae(sae, path=tmp_path / "mine", evaluation=EVALUATION, dry_run=False)
    published = (tmp_path / "mine" / "cfg.json").read_text() + done.card.replace(str(tmp_path), "")
    assert "/home/" not in published and "secret" not in published
    said = json.loads((tmp_path / "mine" / "cfg.json").read_text())["metadata"]
    assert said["dataset_path"] == "a.txt" and said["model_name"] == "tiny" and said["l0"] == 8.0
    assert sae.cfg.metadata.model_name == "/home/someone/models/tiny"


def test_an_architecture_that_sae_lens_lacks_is_said(tmp_path: Path) -> None:
    cfg = replace(topk().cfg, transcoder=True, apply_b_dec_to_input=False)
    done = publish_sae(TopKSAE(cfg, topk().tensors()), path=tmp_path / "mine")
    assert (
        done.load.sae_lens == ""
        and "topk_transcoder" in done.warnings[0]
        and "sae_lens" not in done.card
    )


def test_a_batchtopk_sae_is_published_as_the_jumprelu_sae_that_sae_lens_reads(
    tmp_path: Path,
) -> None:
    cfg = BatchTopKConfig(
        architecture="batchtopk", d_in=32, d_sae=64, k=4.5, metadata=SAEMetadata(hook_name=HOOK)
    )
    torch.manual_seed(0)
    tensors = {name: torch.rand(shape) for name, shape in BatchTopKSAE.shapes(cfg).items()}
    done = publish_sae(BatchTopKSAE(cfg, tensors), path=tmp_path / "mine", dry_run=False)
    assert (
        json.loads((tmp_path / "mine" / "cfg.json").read_text())["architecture"] == "jumprelu"
        and done.load.sae_lens
    )
    x = torch.randn(5, 32)
    again = load_sae(tmp_path / "mine", device="cpu")
    assert torch.allclose(
        again.encode(x), ARCHITECTURES["batchtopk"][1](cfg, tensors).encode(x), atol=1e-6
    )


def test_a_new_repository_is_private_and_loads_back(fake: FakeHub) -> None:
    sae = topk()
    planned = publish_sae(sae, repo_id=REPO, evaluation=EVALUATION)
    assert REPO not in fake.repos and not fake.asked("/api/", "POST") and planned.private is True
    done = publish_sae(sae, repo_id=REPO, evaluation=EVALUATION, dry_run=False)
    assert REPO in fake.private and fake.refs[REPO]["main"] == done.commit
    files = fake.repos[REPO][done.commit]
    assert set(files) == {
        ".gitattributes",
        f"{HOOK}/cfg.json",
        f"{HOOK}/sae_weights.safetensors",
        "README.md",
    }
    assert {file.name: file.n_bytes for file in planned.files} == {
        name: len(files[name]) for name in files if name != ".gitattributes"
    }
    import saescope as ss

    again: SAE = eval(done.load.saescope, {"ss": ss})
    assert (
        again.weights_hash == sae.weights_hash
        and again.cfg.metadata.raw["source"]["revision"] == done.commit
    )
    assert (
        done.load.sae_lens == f'SAE.from_pretrained("{REPO}", "{HOOK}")'
        and done.target == f"{fake.url}/{REPO}"
    )


def test_a_second_sae_joins_the_first_and_leaves_its_card(fake: FakeHub) -> None:
    publish_sae(topk(), repo_id=REPO, dry_run=False)
    error = refused(ArgumentError, lambda: publish_sae(topk(), repo_id=REPO, dry_run=False))
    assert error.code == "ALREADY_EXISTS" and HOOK in error.message
    done = publish_sae(topk(hook_name="blocks.2.hook_mlp_out"), repo_id=REPO, dry_run=False)
    files = fake.repos[REPO][done.commit]
    assert {
        "README.md",
        "blocks.2.hook_mlp_out/README.md",
        f"{HOOK}/cfg.json",
        "blocks.2.hook_mlp_out/cfg.json",
    } <= set(files)
    assert HOOK.encode() in files["README.md"]


def test_a_private_sae_does_not_go_into_a_public_repository(fake: FakeHub) -> None:
    fake.add(REPO, {"a.txt": b"public"})
    assert (
        refused(ArgumentError, lambda: publish_sae(topk(), repo_id=REPO)).code == "REPO_IS_PUBLIC"
    )
    assert (
        publish_sae(topk(), repo_id=REPO, private=False, dry_run=False).written
        and REPO not in fake.private
    )


def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.private.add(REPO)
    fake.add(REPO, {"a.txt": b"first"})
    seen = upload.look(REPO)
    theirs = fake.add(REPO, {f"{HOOK}/cfg.json": b"theirs"})
    monkeypatch.setattr("saescope.publish.writing.look", lambda repo_id: seen)
    assert (
        refused(OfflineError, lambda: publish_sae(topk(), repo_id=REPO, dry_run=False)).code
        == "REPO_CHANGED"
    )
    assert fake.refs[REPO]["main"] == theirs


@pytest.mark.parametrize(("path", "status", "code"), [
    ("/api/repos/create", 403, "HUB_ACCESS_DENIED"),
    ("/preupload/", 401, "HUB_ACCESS_DENIED"),
    ("/commit/", 500, "HUB_UNAVAILABLE"),
    ("/objects/batch", 403, "HUB_ACCESS_DENIED"),
])  # fmt: skip
def test_a_refusal_is_coded_and_names_the_next_step(
    fake: FakeHub, path: str, status: int, code: str
) -> None:
    fake.fail(path, method="POST", times=99, status=status)
    error = refused(SaescopeError, lambda: publish_sae(topk(), repo_id=REPO, dry_run=False))
    assert error.code == code and error.hint
    assert all(set(files) <= {".gitattributes"} for files in fake.repos.get(REPO, {}).values())


def test_without_a_token_only_a_dry_run_goes(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "no Hugging Face token" in publish_sae(topk(), repo_id=REPO).warnings[0]
    assert (
        refused(ArgumentError, lambda: publish_sae(topk(), repo_id=REPO, dry_run=False)).code
        == "HUB_TOKEN_MISSING"
    )
    assert not fake.asked("/api/repos/create", "POST")


def test_without_a_network_a_dry_run_says_that_it_could_not_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(transfer, "BACKOFF_S", 0.001)
    planned = publish_sae(topk(), repo_id=REPO)
    assert any("cannot be reached" in warning for warning in planned.warnings)
    assert refused(OfflineError, lambda: publish_sae(topk(), repo_id=REPO, dry_run=False)).hint


@pytest.mark.parametrize(
    "repo_id", ["name", "a/b/c", "../x", "a/b--c", "owner/name.git", "owner/", "own er/x"]
)
def test_a_bad_repository_name_is_refused_before_anything_else(repo_id: str) -> None:
    assert (
        refused(ArgumentError, lambda: publish_sae(topk(), repo_id=repo_id)).code
        == "INVALID_REPO_ID"
    )


def test_an_evaluated_sae_has_its_sparsity_beside_it(tmp_path: Path) -> None:
    """As sae-lens's trainer writes it: float32, log10(frequency + 1e-10), under the key
    "sparsity"."""
    sae = topk()
    n_fired = (0, 1, 20_000, *[7] * (sae.cfg.d_sae - 3))
    evaluation = replace(EVALUATION, n_fired=n_fired)
    plan = publish_sae(sae, path=tmp_path / "mine", evaluation=evaluation)
    done = publish_sae(sae, path=tmp_path / "mine", evaluation=evaluation, dry_run=False)
    sizes = {Path(file.name).name: file.n_bytes for file in done.files}
    assert done.files == plan.files
    file = tmp_path / "mine" / "sparsity.safetensors"
    assert file.stat().st_size == sizes["sparsity.safetensors"]
    said = load_file(file)["sparsity"]
    expected = [math.log10(n / 20_000 + 1e-10) for n in n_fired]
    assert said.dtype == torch.float32 and said.tolist() == pytest.approx(expected)
    assert load_sae(tmp_path / "mine", device="cpu").weights_hash == sae.weights_hash
