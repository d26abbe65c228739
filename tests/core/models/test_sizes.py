"""How large a model will be: from headers alone, here and on the hub."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.core.fake_hub import FakeHub

from saescope.errors import ModelError
from saescope.models import peek_model_bytes

REPO = "someone/model"


@pytest.fixture
def n_parameters(glass_dir: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(glass_dir / "model.safetensors").values())


@pytest.mark.parametrize(("dtype", "n_bytes"), [("float32", 4), ("bfloat16", 2), ("auto", 2)])
def test_the_size_is_that_of_the_dtype(
    glass_dir: Path, n_parameters: int, dtype: str, n_bytes: int
) -> None:
    assert peek_model_bytes(glass_dir, dtype=dtype) == n_bytes * n_parameters


def test_of_a_repository_only_headers_are_fetched(
    fake_hub: FakeHub, glass_dir: Path, n_parameters: int
) -> None:
    fake_hub.add_folder(REPO, glass_dir)
    assert peek_model_bytes(REPO) == 4 * n_parameters
    sent = sum(request.n_sent for request in fake_hub.requests if request.server == "content")
    assert sent < (glass_dir / "model.safetensors").stat().st_size / 4


def test_shards_are_added_up_and_copies_left_out(
    fake_hub: FakeHub, glass_dir: Path, tmp_path: Path, n_parameters: int
) -> None:
    tensors = load_file(glass_dir / "model.safetensors")
    shards = {f"model-{i}.safetensors": dict([*tensors.items()][i::2]) for i in range(2)}
    for name, part in shards.items():
        save_file(part, tmp_path / name)
    weight_map = {tensor: name for name, part in shards.items() for tensor in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    fake_hub.add(
        REPO, files | {"consolidated.safetensors": (glass_dir / "model.safetensors").read_bytes()}
    )
    assert peek_model_bytes(REPO) == 4 * n_parameters


@pytest.mark.parametrize("status", [403, 404])
def test_a_repository_that_may_not_be_read_has_no_known_size(
    fake_hub: FakeHub, glass_dir: Path, status: int
) -> None:
    fake_hub.add_folder(REPO, glass_dir)
    fake_hub.fail("model.safetensors", status=status, times=99)
    assert (
        peek_model_bytes(REPO)
        == 0
        == peek_model_bytes(REPO, offline=True)
        == peek_model_bytes("nobody/nothing-here", offline=True)
    )


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 64, b"\2\0\0\0\0\0\0\0[]", b"\2\0\0\0\0\0\0\0{}"]
)
def test_a_torn_file_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    if content.endswith(b"{}"):
        assert peek_model_bytes(tmp_path) == 0
        return
    with pytest.raises(ModelError) as caught:
        peek_model_bytes(tmp_path)
    assert caught.value.code == "FILE_CORRUPT"
