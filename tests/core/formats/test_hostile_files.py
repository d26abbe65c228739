"""npz bombs, malicious pickles, torn and contradictory files in every dialect: refused at the door
with a code and a next step."""

import contextlib
import copy
import functools
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader, FileIO
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.core.formats.trees import assert_close, hub, load_place, pickles_allowed, random_weights

from saescope.cancel import cancellable
from saescope.errors import Cancelled, SaescopeError
from saescope.formats import BY_NAME, npz, pickles
from saescope.names import home

DATA = Path(__file__).parents[2] / "data" / "dialects"
NAMES = {
    "W_enc": "w_enc",
    "W_dec": "w_dec",
    "b_enc": "b_enc",
    "b_dec": "b_dec",
    "threshold": "threshold",
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(pickles.SETTING, raising=False)


def refused(place: Path, code: str, known: Mapping[str, Any] | None = None) -> SaescopeError:
    start = time.perf_counter()
    with pytest.raises(SaescopeError) as caught:
        load_place(place, known)
    assert (caught.value.code, time.perf_counter() - start < 1) == (code, True), caught.value
    return caught.value


# ---------------------------------------------------------------- npz


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    w = random_weights()
    return {disk: w[name].numpy() for name, disk in NAMES.items()} | changes


def write_npz(
    folder: Path, members: Mapping[str, np.ndarray], *, save: Callable[..., None] = np.savez
) -> Path:
    folder.mkdir(exist_ok=True)
    save(folder / "params.npz", **members)
    return folder


def write_zip(folder: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(folder / "params.npz", "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder


def npy(descr: Any, shape: Any, data: bytes = b"", *, fortran: bool = False) -> bytes:
    head = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def test_npz_in_either_order_compressed_or_not_and_half_precision(tmp_path: Path) -> None:
    w, plain = random_weights(), load_place(write_npz(tmp_path / "plain", arrays()))
    fortran = arrays(
        w_enc=np.asfortranarray(w["W_enc"].numpy()), w_dec=np.asfortranarray(w["W_dec"].numpy())
    )
    for sae in (
        load_place(write_npz(tmp_path / "fortran", fortran)),
        load_place(write_npz(tmp_path / "packed", arrays(), save=np.savez_compressed)),
    ):
        assert_close(sae(w["x"]), plain(w["x"]))
    doubles = {name: array.astype("<f8") for name, array in arrays().items()}
    assert_close(load_place(write_npz(tmp_path / "doubles", doubles))(w["x"]), plain(w["x"]))
    halves = write_npz(
        tmp_path / "halves", {name: array.astype("<f2") for name, array in arrays().items()}
    )
    assert load_place(halves).W_enc.dtype == torch.float32
    cfg, _ = BY_NAME["gemma_2"].peek(hub(halves, "google/gemma-scope-2b-pt-res", ""))
    assert cfg.dtype == "float16"


def test_an_npz_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    folder = write_npz(
        tmp_path, arrays(w_enc=np.zeros((1 << 10, 1 << 13), dtype="<f4")), save=np.savez_compressed
    )
    assert (folder / "params.npz").stat().st_size < 2 << 20
    assert "claim to unpack" in refused(folder, "FILE_SUSPICIOUS").message


def test_npz_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """A zip whose directory names the same bytes many times (Fifield 2019)."""
    content = npy("<f4", (1 << 20,), bytes(4 << 20))
    write_zip(
        tmp_path, {f"a{i}.npy": content if not i else b"" for i in range(16)}, zipfile.ZIP_DEFLATED
    )
    file = tmp_path / "params.npz"
    with zipfile.ZipFile(file) as archive:
        first, rest = archive.infolist()[0], archive.infolist()[1:]
    raw = file.read_bytes()
    for entry in rest:
        for name in (b"PK\x01\x02",):
            at = raw.index(entry.filename.encode(), raw.index(name)) - 46
            raw = (
                raw[: at + 20]
                + struct.pack("<II", first.compress_size, first.file_size)
                + raw[at + 28 :]
            )
            raw = raw[: at + 42] + struct.pack("<I", first.header_offset) + raw[at + 46 :]
    file.write_bytes(raw)
    refused(tmp_path, "FILE_SUSPICIOUS")


class Evil:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_npz_objects_are_never_unpickled(tmp_path: Path) -> None:
    evil = np.array([Evil(tmp_path / "marker")], dtype=object)
    write_npz(
        tmp_path,
        arrays(threshold=evil),
        save=np.savez,
    )
    error = refused(tmp_path, "PICKLE_REFUSED")
    assert not (tmp_path / "marker").exists() and "allow_pickle" not in error.message + error.hint


BAD_NPZ: dict[str, tuple[dict[str, bytes], str]] = {
    "shape larger than the bytes": (
        {"w_enc.npy": npy("<f4", (16, 48), b"\0" * 64)},
        "FILE_CORRUPT",
    ),
    "4e9 rows": ({"w_enc.npy": npy("<f4", (4_000_000_000,))}, "FILE_CORRUPT"),
    "negative shape": ({"w_enc.npy": npy("<f4", (-4, -4), b"\0" * 64)}, "FILE_CORRUPT"),
    "shape of floats": ({"w_enc.npy": npy("<f4", (2.5, 2), b"\0" * 20)}, "FILE_CORRUPT"),
    "integers": ({"w_enc.npy": npy("<i4", (4, 4), b"\0" * 64)}, "UNSUPPORTED_DTYPE"),
    "big-endian": ({"w_enc.npy": npy(">f4", (4, 4), b"\0" * 64)}, "UNSUPPORTED_DTYPE"),
    "structured": ({"w_enc.npy": npy([("a", "<f4")], (16,), b"\0" * 64)}, "UNSUPPORTED_DTYPE"),
    "objects inside a structure": (
        {"w_enc.npy": npy([("a", "|O")], (16,), b"\0" * 64)},
        "PICKLE_REFUSED",
    ),
    "code as a header": (
        {"w_enc.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 14) + b"__import__('os')"},
        "FILE_CORRUPT",
    ),
    "deeply nested header": (
        {"w_enc.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 4000) + b"(" * 4000},
        "FILE_CORRUPT",
    ),
    "huge header": (
        {"w_enc.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31)},
        "FILE_CORRUPT",
    ),
    "no NumPy array": ({"w_enc.npy": b"hello"}, "FILE_CORRUPT"),
    "a path outside": ({"../w_enc.npy": npy("<f4", (1,), b"\0" * 4)}, "FILE_SUSPICIOUS"),
    "another file": (
        {"w_enc.npy": npy("<f4", (1, 1), b"\0" * 4), "readme.txt": b"hi"},
        "FILE_SUSPICIOUS",
    ),
    "17 arrays": ({f"a{i}.npy": npy("<f4", (1,), b"\0" * 4) for i in range(17)}, "FILE_SUSPICIOUS"),
    "nothing": ({}, "SHAPE_MISMATCH"),
    "other arrays": ({"weights.npy": npy("<f4", (4, 4), b"\0" * 64)}, "SHAPE_MISMATCH"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz(case: str, tmp_path: Path) -> None:
    members, code = BAD_NPZ[case]
    refused(write_zip(tmp_path, members), code)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("array", NAMES.values())
def test_npz_weights_must_be_finite(array: str, value: float, tmp_path: Path) -> None:
    bad = arrays()
    bad[array] = bad[array].copy()
    bad[array].flat[3] = value
    assert array in refused(write_npz(tmp_path, bad), "WEIGHTS_NOT_FINITE").message


def test_torn_npz(tmp_path: Path) -> None:
    whole = (write_npz(tmp_path, arrays()) / "params.npz").read_bytes()
    for content in (
        b"",
        whole[:1],
        whole[:100],
        whole[: len(whole) // 2],
        whole[:-30],
        b"<!DOCTYPE html><p>no</p>" + bytes(100),
    ):
        (tmp_path / "params.npz").write_bytes(content)
        refused(tmp_path, "FILE_CORRUPT")
    at = whole.index(b"w_enc.npy") + 2000
    (tmp_path / "params.npz").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    refused(tmp_path, "FILE_CORRUPT")  # the zip's own checksum


def test_mutated_npz_either_loads_or_is_refused_with_a_code(tmp_path: Path) -> None:
    whole = (write_npz(tmp_path, arrays(), save=np.savez_compressed) / "params.npz").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        mutant = bytearray(whole)
        for at in rng.integers(0, len(whole), 4):
            mutant[at] = rng.integers(0, 256)
        (tmp_path / "params.npz").write_bytes(bytes(mutant))
        try:
            load_place(tmp_path)
        except SaescopeError as error:
            assert error.code in (
                "FILE_CORRUPT",
                "FILE_SUSPICIOUS",
                "SHAPE_MISMATCH",
                "WEIGHTS_NOT_FINITE",
                "UNSUPPORTED_DTYPE",
                "PICKLE_REFUSED",
            )


def test_bytes_missing_anywhere_in_an_npz(tmp_path: Path) -> None:
    """Places before the start of the file, in particular, which zipfile seeks without a look."""
    whole = (write_npz(tmp_path, arrays(), save=np.savez_compressed) / "params.npz").read_bytes()
    for start in range(0, len(whole) - 64, 61):
        (tmp_path / "params.npz").write_bytes(whole[:start] + whole[start + 40 :])
        refused(tmp_path, "FILE_CORRUPT")


def test_an_order_that_is_no_truth_value_is_refused(tmp_path: Path) -> None:
    """bool("False") is True: the matrix would be read as its transpose."""
    members = {f"{name}.npy": npy("<f4", a.shape, a.tobytes()) for name, a in arrays().items()}
    write_zip(tmp_path, members)
    load_place(tmp_path)
    odd = members["w_enc.npy"].replace(b"'fortran_order': False", b"'fortran_order':'False'")
    write_zip(tmp_path, members | {"w_enc.npy": odd})
    refused(tmp_path, "FILE_CORRUPT")


def test_a_pt_file_whose_checksum_does_not_fit_is_refused(tmp_path: Path) -> None:
    """torch.load compares none: a flipped bit of a weight would pass."""
    file = goodfire(tmp_path)
    whole, weights = file.read_bytes(), random_weights()["b_enc"].numpy().tobytes()
    at = whole.index(weights) + 5
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert torch.load(file, weights_only=True)
    with pytest.raises(SaescopeError, match="checksum") as caught:
        pickles.convert(file, tmp_path / "out.safetensors")
    assert caught.value.code == "FILE_CORRUPT"


class Counting(FileIO):
    """How much of a file is read."""

    n_read = 0

    def readinto(self, buffer: Any) -> int:
        got = super().readinto(buffer)
        self.n_read += got or 0
        return got or 0


def test_npz_headers_come_from_a_few_bytes(tmp_path: Path) -> None:
    """Of a file on the hub only ranges are fetched."""
    big = arrays(w_enc=np.ones((512, 4096), dtype="<f4"), w_dec=np.ones((4096, 512), dtype="<f4"))
    file = write_npz(tmp_path, big) / "params.npz"
    source, raw = hub(tmp_path, "google/gemma-scope-2b-pt-res", ""), Counting(file)
    watched = type(source)(
        opener=lambda _: BufferedReader(raw), local=source.local, names=source.names
    )
    assert npz.read_npz_header(watched, "params.npz")["w_enc"].shape == (512, 4096)
    assert raw.n_read < 100_000


# ---------------------------------------------------------------- pickles


def write_pt(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return file


def goodfire(folder: Path, **changes: Any) -> Path:
    w = random_weights()
    tensors = {
        "encoder_linear.weight": w["W_enc"].T.contiguous(),
        "decoder_linear.weight": w["W_dec"].T.contiguous(),
    }
    tensors |= {"encoder_linear.bias": w["b_enc"], "decoder_linear.bias": w["b_dec"]}
    return write_pt(folder / "Llama-3.1-8B-Instruct-SAE-l19.pth", tensors | changes)


def test_a_pickle_is_refused_unless_the_settings_allow_it(tmp_path: Path) -> None:
    error = refused(goodfire(tmp_path), "PICKLE_REFUSED")
    assert "SAESCOPE_ALLOW_PICKLE=1 saescope load-sae" in error.hint
    assert "weights_only" not in error.message + error.hint


def test_a_refused_repository_is_not_even_downloaded(tmp_path: Path) -> None:
    goodfire(tmp_path)
    source = hub(
        tmp_path, "Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth"
    )

    def local(name: str) -> Path:
        raise AssertionError(f"{name} was downloaded")

    with pytest.raises(SaescopeError, match="is a pickle"):
        BY_NAME["goodfire"].read(
            type(source)(
                opener=source.opener,
                local=local,
                names=source.names,
                path=source.path,
                repo_id="Goodfire/x",
            ),
            torch.float32,
        )


@pytest.mark.slow
def test_a_child_process_converts_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, w = goodfire(tmp_path), random_weights()
    monkeypatch.setenv(pickles.SETTING, "1")
    first = load_place(file)(w["x"])
    monkeypatch.delenv(pickles.SETTING)
    monkeypatch.setattr(
        pickles, "_run_child", lambda path, out: pytest.fail("converted a second time")
    )
    assert torch.equal(load_place(file)(w["x"]), first)
    (converted,) = home().glob("converted/*.safetensors")
    converted.write_bytes(converted.read_bytes()[:-1] + b"\1")
    refused(file, "PICKLE_REFUSED")  # the cached copy is no longer what was written


@pytest.mark.parametrize("zipped", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("switch", [pytest.param(False, marks=pytest.mark.slow), True])
def test_malicious_code_never_runs(
    switch: bool, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the child either, and not with the environment variable that switches torch's own
    guard off."""
    marker = tmp_path / "marker"
    monkeypatch.setenv(pickles.SETTING, "1")
    if switch:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    file = goodfire(tmp_path, evil=Evil(marker))
    if not zipped:
        file.write_bytes(pickle.dumps({"encoder_linear.weight": Evil(marker)}))
    with pytest.raises(SaescopeError) as caught:
        load_place(file)
    assert caught.value.code == "PICKLE_REFUSED"
    assert not any(
        word in caught.value.message + caught.value.hint
        for word in ("weights_only", "add_safe_globals", "mkdir")
    )
    assert not marker.exists()
    assert not list(home().glob("converted/*"))


CONTENT: dict[str, tuple[Callable[[], object], str]] = {
    "a list": (lambda: [torch.zeros(3)], "PICKLE_REFUSED"),
    "a list inside": (lambda: {"a": [1, 2]}, "PICKLE_REFUSED"),
    "keys that are no names": (lambda: {(1, 2): torch.zeros(3)}, "PICKLE_REFUSED"),
    "no weights": (lambda: {"k": 3}, "PICKLE_REFUSED"),
    "a stride of zero": (lambda: {"a": torch.zeros(1).expand(1 << 15, 1 << 15)}, "FILE_SUSPICIOUS"),
    "sparse": (lambda: {"a": torch.eye(3).to_sparse()}, "UNSUPPORTED_DTYPE"),
    "complex": (lambda: {"a": torch.zeros(3, dtype=torch.complex64)}, "UNSUPPORTED_DTYPE"),
}


@pytest.mark.parametrize("case", CONTENT)
def test_only_dictionaries_of_plain_tensors(case: str, tmp_path: Path) -> None:
    make, code = CONTENT[case]
    with pytest.raises(SaescopeError) as caught:
        pickles.convert(write_pt(tmp_path / "x.pt", make()), tmp_path / "out.safetensors")
    assert caught.value.code == code


def test_what_a_conversion_keeps(tmp_path: Path) -> None:
    nested = {
        "model": {"a": torch.ones(2, 3).T, "steps": torch.tensor(7)},
        "lr": 0.1,
        "name": "x",
        "seen": torch.zeros(5000, dtype=torch.long),
    }
    values = pickles.convert(write_pt(tmp_path / "x.pt", nested), tmp_path / "out.safetensors")
    assert values == {"model.steps": 7, "lr": 0.1, "name": "x"}
    assert load_file(tmp_path / "out.safetensors")["model.a"].shape == (3, 2)


def test_torn_and_compressed_pickles(tmp_path: Path) -> None:
    file = goodfire(tmp_path)
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"<html>"):
        file.write_bytes(content)
        with pytest.raises(SaescopeError, match="torn"):
            pickles.convert(file, tmp_path / "out.safetensors")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 26))
    with pytest.raises(SaescopeError, match="claim to unpack"):
        pickles.convert(file, tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", ["x.pkl", "x.ckpt", "x.bin", "x.pt2"])
def test_other_pickles_are_refused_always(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pickles.SETTING, "1")
    (tmp_path / name).touch()
    with pytest.raises(SaescopeError) as caught, pickles.open_pickle(hub(tmp_path, "", name), name):
        pass
    assert caught.value.code == "PICKLE_REFUSED"


def test_the_child_is_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token of the user's, no switches of torch's; stopped when the time is over, and when the
    caller gives up."""
    import threading

    seen: dict[str, Any] = {}

    class Hanging:
        def __init__(self, command: list[str], *, env: dict[str, str], **_: Any) -> None:
            seen.update(env=env, command=command)

        def __enter__(self) -> "Hanging":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def poll(self) -> None:
            return None

        def wait(self, timeout: float) -> None:
            time.sleep(timeout)

        def kill(self) -> None:
            seen["killed"] = True

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(pickles.subprocess, "Popen", Hanging)
    monkeypatch.setattr(pickles, "SECONDS", 0.01)
    file = goodfire(tmp_path)
    read = pickles._run_child(file, tmp_path / "out")  # pyright: ignore[reportPrivateUsage]
    assert read["error"][0] == "READ_TIMED_OUT"
    assert (
        not {"HF_TOKEN", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"} & seen["env"].keys()
        and "-P" in seen["command"]
        and seen.pop("killed")
    )
    given_up = threading.Event()
    given_up.set()
    with cancellable(given_up), pytest.raises(Cancelled):
        pickles._run_child(file, tmp_path / "out")  # pyright: ignore[reportPrivateUsage]
    assert seen["killed"]


# ---------------------------------------------------------------- each dialect's own files


def tree(case: str, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a reference case, and what the catalogue says of it."""
    said = json.loads((DATA / case / "case.json").read_text())
    return copytree(DATA / case, tmp_path / case) / said["tree"] / said["path"], said["known"]


SAFE = (
    "gemma_3_resid_post",
    "gemma_3_affine",
    "mwhanna",
    "llama_scope",
    "llama_scope_r1",
    "temporal",
)


def weights_of(place: Path) -> Path:
    return place if place.is_file() else next(place.rglob("*.safetensors"))


@pytest.mark.parametrize("case", SAFE)
def test_missing_extra_nan_and_torn_tensors(case: str, tmp_path: Path) -> None:
    place, known = tree(case, tmp_path)
    file = weights_of(place)
    whole = load_file(file)
    for name in whole:
        save_file({other: tensor for other, tensor in whole.items() if other != name}, file)
        assert name in refused(place, "SHAPE_MISMATCH", known).message
        save_file(whole | {name: torch.full_like(whole[name], float("nan"))}, file)
        assert name in refused(place, "WEIGHTS_NOT_FINITE", known).message
        save_file(whole | {name: torch.cat([whole[name], whole[name]])}, file)
        refused(place, "SHAPE_MISMATCH", known)
    save_file(whole | {"surprise": torch.zeros(3)}, file)
    assert "surprise" in refused(place, "SHAPE_MISMATCH", known).message
    save_file(whole, file)
    file.write_bytes(file.read_bytes()[:-8])
    refused(place, "FILE_CORRUPT", known)


def edited(place: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    said = json.loads((place / name).read_text())
    change(said)
    (place / name).write_text(json.dumps(said))
    return place


CONFIGS: dict[str, tuple[str, str, Callable[[dict[str, Any]], object], str]] = {
    "unknown class": (
        "dl_standard",
        "config.json",
        lambda c: c["trainer"].update(dict_class="CrossCoder"),
        "UNSUPPORTED_ARCHITECTURE",
    ),
    "identity": (
        "dl_standard",
        "config.json",
        lambda c: c["trainer"].update(dict_class="IdentityDict"),
        "UNSUPPORTED_ARCHITECTURE",
    ),
    "no class": (
        "dl_standard",
        "config.json",
        lambda c: c["trainer"].pop("dict_class"),
        "CONFIG_INVALID",
    ),
    "no width": (
        "dl_standard",
        "config.json",
        lambda c: c["trainer"].pop("dict_size"),
        "CONFIG_INVALID",
    ),
    "width as text": (
        "dl_standard",
        "config.json",
        lambda c: c["trainer"].update(dict_size="48"),
        "CONFIG_INVALID",
    ),
    "width of true": (
        "dl_standard",
        "config.json",
        lambda c: c["trainer"].update(dict_size=True),
        "CONFIG_INVALID",
    ),
    "no k": ("dl_topk", "config.json", lambda c: c["trainer"].pop("k"), "CONFIG_INVALID"),
    "group sizes": (
        "dl_matryoshka",
        "config.json",
        lambda c: c["trainer"].update(group_sizes="all"),
        "CONFIG_INVALID",
    ),
    "another architecture": (
        "gemma_3_resid_post",
        "config.json",
        lambda c: c.update(architecture="topk"),
        "UNSUPPORTED_ARCHITECTURE",
    ),
    "another layer": (
        "gemma_3_resid_post",
        "config.json",
        lambda c: c.update(hf_hook_point_in="model.layers.3.output"),
        "CONFIG_INVALID",
    ),
    "unknown place": (
        "gemma_3_resid_post",
        "config.json",
        lambda c: c.update(hf_hook_point_in="model.layers.1.q_norm.output"),
        "CONFIG_INVALID",
    ),
    "glu encoder": (
        "llama_scope",
        "hyperparams.json",
        lambda c: c.update(use_glu_encoder=True),
        "UNSUPPORTED_ARCHITECTURE",
    ),
    "topk": (
        "llama_scope",
        "hyperparams.json",
        lambda c: c.update(act_fn="topk"),
        "UNSUPPORTED_ARCHITECTURE",
    ),
    "token-wise": (
        "llama_scope",
        "hyperparams.json",
        lambda c: c.update(norm_activation="token-wise"),
        "UNSUPPORTED_ARCHITECTURE",
    ),
    "pre-encoder bias": (
        "llama_scope",
        "hyperparams.json",
        lambda c: c.update(apply_decoder_bias_to_pre_encoder=True),
        "UNSUPPORTED_ARCHITECTURE",
    ),
    "no threshold": (
        "llama_scope",
        "hyperparams.json",
        lambda c: c.pop("jump_relu_threshold"),
        "CONFIG_INVALID",
    ),
    "another width": (
        "llama_scope",
        "hyperparams.json",
        lambda c: c.update(d_model=32),
        "SHAPE_MISMATCH",
    ),
}


CONFIGURATIONS = [
    ("llama_scope", "hyperparams.json"),
    ("llama_scope_r1", "config.json"),
    ("dl_topk", "config.json"),
    ("temporal", "conf.yaml"),
    ("mntss_clt", "config.yaml"),
    ("connor_rob", "*_cfg.json"),
]


def numbers_in(said: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """The way to every number in a configuration."""
    if type(said) in (int, float):
        yield path
    inside = said.items() if type(said) is dict else enumerate(said) if type(said) is list else ()
    for key, value in inside:
        yield from numbers_in(value, *path, key)


@pytest.mark.parametrize(("case", "file"), CONFIGURATIONS)
def test_a_number_beyond_float32_loads_and_encodes_or_is_refused(
    case: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, known = tree(case, tmp_path)
    config = next((tmp_path / case).rglob(file))
    place = config.parent / "W_enc_3.safetensors" if case == "mntss_clt" else place
    said = yaml.safe_load(config.read_text())
    with pickles_allowed(monkeypatch.setenv, monkeypatch.setattr):
        for path in numbers_in(said):
            for value in (1e300, -1e300, 10**400):
                changed = copy.deepcopy(said)
                inside = functools.reduce(lambda place, key: place[key], path[:-1], changed)
                inside[path[-1]] = value
                config.write_text(json.dumps(changed))
                with contextlib.suppress(SaescopeError):
                    sae = load_place(place, known)
                    sae.encode(torch.zeros(2, sae.cfg.d_in))


@pytest.mark.parametrize(("case", "file"), CONFIGURATIONS)
def test_errors_name_the_file_that_is_wrong(
    case: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key gone in turn: whatever is said names this file or a key of it, and no other file of
    a configuration."""
    place, known = tree(case, tmp_path)
    config = next((tmp_path / case).rglob(file))
    place = config.parent / "W_enc_3.safetensors" if case == "mntss_clt" else place
    said = yaml.safe_load(config.read_text())
    names = {"hyperparams.json", "config.json", "cfg.json", "conf.yaml", "config.yaml"}
    n_refused = 0
    with pickles_allowed(monkeypatch.setenv, monkeypatch.setattr):
        for key in said:
            config.write_text(json.dumps({k: v for k, v in said.items() if k != key}))
            try:
                load_place(place, known)
            except SaescopeError as error:
                n_refused += 1
                others = [name for name in names - {config.name} if f" {name}" in f" {error}"]
                assert not others or config.name.endswith(others[0]), error.message
    assert n_refused


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_that_say_something_else(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, file, change, code = CONFIGS[case]
    place, known = tree(name, tmp_path)
    with pickles_allowed(monkeypatch.setenv, monkeypatch.setattr):
        error = refused(edited(place, file, change), code, known)
    assert error.message


def test_sparsify_refuses_what_would_be_another_function(tmp_path: Path) -> None:
    w = random_weights()
    tensors = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "W_dec": w["W_dec"],
        "b_dec": w["b_dec"],
    }
    save_file(tensors, tmp_path / "sae.safetensors")
    usual = {"d_in": 16, "num_latents": 48, "k": 4}
    wrong = (
        {"activation": "relu"},
        {"signed": True},
        {"skip_connection": True},
        {"num_latents": 64},
        {"d_in": 8},
        {"k": 0},
        {"k": "4"},
    )
    for change in wrong:
        (tmp_path / "cfg.json").write_text(json.dumps(usual | change))
        with pytest.raises(SaescopeError) as caught:
            load_place(tmp_path)
        assert caught.value.code in ("UNSUPPORTED_ARCHITECTURE", "SHAPE_MISMATCH", "CONFIG_INVALID")


def test_a_qwen_file_outside_its_repository_has_no_k(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pickles_allowed(monkeypatch.setenv, monkeypatch.setattr):
        file = tmp_path / "layer7.sae.pt"
        file.write_bytes(
            (
                DATA / "qwen_scope" / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5" / "layer7.sae.pt"
            ).read_bytes()
        )
        assert "SAE-Res-" in refused(file, "AMBIGUOUS_ARCHITECTURE").hint


def test_trust_remote_code_is_refused(tmp_path: Path) -> None:
    folder = write_npz(tmp_path, arrays())
    refused(
        folder, "REMOTE_CODE_REFUSED", {"model_from_pretrained_kwargs": {"trust_remote_code": True}}
    )


CONFINED = """
import torch
from saescope.formats import pickles
pickles._confine(1000)
for attempt in (
    lambda: torch.empty(4 << 30, dtype=torch.uint8),
    lambda: open("big", "wb").write(bytes(20 << 20)),
):
    try:
        attempt()
        print("went through")
    except (RuntimeError, OSError) as error:
        print("stopped")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only there the limits are known to hold")
def test_the_child_gets_no_more_memory_and_disk_than_the_file_can_need(tmp_path: Path) -> None:
    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", CONFINED],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
        check=False,
    )
    assert done.stdout.split() == ["stopped", "stopped"], done.stderr


COSTS = """
import time
from saescope.formats import pickles

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

burn(1.5)  # the import, on a slow machine
pickles.SECONDS = 1
pickles._confine(1000)
burn(0.2)
print("read", flush=True)
burn(30)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only there the limits are known to hold")
def test_processor_time_counts_from_after_the_import() -> None:
    import signal

    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", COSTS], capture_output=True, text=True, env=env, check=False
    )
    assert (done.stdout.split(), done.returncode) == (["read"], -signal.SIGXCPU), done.stderr
    why = pickles._why_it_died(done.returncode, 60.0)  # pyright: ignore[reportPrivateUsage]
    assert why == ["FILE_SUSPICIOUS", "reading it took more than 60 s of processor time"]


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_on_a_busy_machine_good_files_are_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import of torch alone takes longer than the seconds that the file has."""
    monkeypatch.setenv(pickles.SETTING, "1")
    monkeypatch.setattr(pickles, "SECONDS", 0.05)
    monkeypatch.setattr(pickles, "PATIENCE", 10_000)
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        w = random_weights()
        sae = load_place(goodfire(tmp_path))
        assert torch.equal(sae.W_dec, w["W_dec"])
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_a_reader_that_the_system_killed_does_not_make_a_file_suspicious(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = pickles._why_it_died(-9, 60.0)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setenv(pickles.SETTING, "1")
    monkeypatch.setattr(pickles, "_run_child", lambda path, out: {"error": why})
    with pytest.raises(SaescopeError, match="killed the process") as caught:
        load_place(goodfire(tmp_path))
    assert caught.value.code == "READER_KILLED" and "safetensors" not in caught.value.hint
