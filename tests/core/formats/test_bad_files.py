"""Torn, hostile and contradictory SAE folders: each is refused with its own code and a next step,
and nothing of it is believed."""

import json
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saescope.errors import ConfigError, FormatError, NotFoundError, SaescopeError
from saescope.load import load_sae, peek_sae
from saescope.notices import collected

DATA = Path(__file__).parents[2] / "data" / "saelens"
Damage = Callable[[Path], object]
UNSET: Any = object()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(copytree(DATA / "jumprelu", tmp_path / "jumprelu"))


def weights(folder: Path) -> Path:
    return folder / "sae_weights.safetensors"


def refused(folder: Path) -> SaescopeError:
    with pytest.raises(SaescopeError) as caught:
        load_sae(folder, device="cpu")
    assert caught.value.hint, caught.value.message
    return caught.value


def edit_cfg(folder: Path, **changes: Any) -> Path:
    """cfg.json with these keys changed; UNSET removes one."""
    cfg = json.loads((folder / "cfg.json").read_text()) | changes
    (folder / "cfg.json").write_text(
        json.dumps({key: value for key, value in cfg.items() if value is not UNSET})
    )
    return folder


def edit_tensors(folder: Path, **changes: Any) -> Path:
    """The weights with these tensors changed by a function, replaced or (UNSET) removed."""
    tensors: dict[str, Any] = load_file(weights(folder))
    for name, change in changes.items():
        tensors[name] = change(tensors[name]) if callable(change) else change
    save_file(
        {name: tensor for name, tensor in tensors.items() if tensor is not UNSET}, weights(folder)
    )
    return folder


def as_topk(folder: Path, **changes: Any) -> Path:
    return edit_cfg(edit_tensors(folder, threshold=UNSET), architecture="topk", **changes)


def set_entry(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.flatten()[3] = value
        return tensor

    return change


def write_header(folder: Path, header: object, data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    weights(folder).write_bytes(struct.pack("<Q", len(text)) + text + data)


def cut(folder: Path, length: int) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes()[:length])


def entry(
    start: int, end: int, shape: list[Any] | None = None, dtype: Any = "F32"
) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - start) // 4] if shape is None else shape,
        "data_offsets": [start, end],
    }


BROKEN_WEIGHTS: dict[str, tuple[Damage, str]] = {
    "empty": (lambda f: weights(f).write_bytes(b""), "FILE_CORRUPT"),
    "seven bytes": (lambda f: cut(f, 7), "FILE_CORRUPT"),
    "eight zero bytes": (lambda f: weights(f).write_bytes(bytes(8)), "FILE_CORRUPT"),
    "cut in the header": (lambda f: cut(f, 100), "FILE_CORRUPT"),
    "cut in the weights": (lambda f: cut(f, 4000), "FILE_CORRUPT"),
    "last byte missing": (lambda f: cut(f, weights(f).stat().st_size - 1), "FILE_CORRUPT"),
    "trailing bytes": (
        lambda f: weights(f).write_bytes(weights(f).read_bytes() + b"PK\x03\x04"),
        "FILE_CORRUPT",
    ),
    "an HTML page": (
        lambda f: weights(f).write_text("<!DOCTYPE html><html><body>Access denied</body></html>"),
        "FILE_CORRUPT",
    ),
    "an HTML page after a newline": (
        lambda f: weights(f).write_text("\n<html>" + "x" * 500),
        "FILE_CORRUPT",
    ),
    "a git-lfs pointer": (
        lambda f: weights(f).write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
        ),
        "FILE_CORRUPT",
    ),
    "header length 2^63": (
        lambda f: weights(f).write_bytes(struct.pack("<Q", 1 << 63) + b"{}" * 100),
        "FILE_CORRUPT",
    ),
    "header length 2^64-1": (
        lambda f: weights(f).write_bytes(b"\xff" * 8 + b"{}" * 100),
        "FILE_CORRUPT",
    ),
    "header is a list": (lambda f: write_header(f, []), "FILE_CORRUPT"),
    "header is no JSON": (
        lambda f: weights(f).write_bytes(struct.pack("<Q", 4) + b"{]{]"),
        "FILE_CORRUPT",
    ),
    "header is no UTF-8": (
        lambda f: weights(f).write_bytes(struct.pack("<Q", 4) + b'{"\xff}'),
        "FILE_CORRUPT",
    ),
    "header nested deeply": (
        lambda f: weights(f).write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000),
        "FILE_CORRUPT",
    ),
    "entry without offsets": (
        lambda f: write_header(f, {"W_enc": {"dtype": "F32", "shape": [1]}}),
        "FILE_CORRUPT",
    ),
    "entry is a string": (lambda f: write_header(f, {"W_enc": "F32"}), "FILE_CORRUPT"),
    "hole between tensors": (
        lambda f: write_header(f, {"W_enc": entry(0, 4), "W_dec": entry(8, 12)}, bytes(12)),
        "FILE_CORRUPT",
    ),
    "overlapping tensors": (
        lambda f: write_header(f, {"W_enc": entry(0, 8), "W_dec": entry(4, 12)}, bytes(12)),
        "FILE_CORRUPT",
    ),
    "negative offset": (
        lambda f: write_header(f, {"W_enc": entry(-4, 4, [2])}, bytes(4)),
        "FILE_CORRUPT",
    ),
    "offset is a string": (
        lambda f: write_header(
            f, {"W_enc": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}, bytes(4)
        ),
        "FILE_CORRUPT",
    ),
    "shape larger than the data": (
        lambda f: write_header(f, {"W_enc": entry(0, 4, [1 << 40, 1 << 40])}, bytes(4)),
        "FILE_CORRUPT",
    ),
    "shape is a string": (
        lambda f: write_header(f, {"W_enc": entry(0, 4, ["1"])}, bytes(4)),
        "FILE_CORRUPT",
    ),
    "dtype is a list": (
        lambda f: write_header(f, {"W_enc": entry(0, 4, dtype=["F32"])}, bytes(4)),
        "UNSUPPORTED_DTYPE",
    ),
    "8-bit weights": (
        lambda f: write_header(f, {"W_enc": entry(0, 4, [4], dtype="F8_E4M3")}, bytes(4)),
        "UNSUPPORTED_DTYPE",
    ),
    "metadata over 1 MiB": (
        lambda f: write_header(
            f, {"__metadata__": {"a": "x" * (1 << 20)}, "W_enc": entry(0, 4)}, bytes(4)
        ),
        "FILE_SUSPICIOUS",
    ),
    "500 tensors": (
        lambda f: save_file({f"W_{i}": torch.zeros(1) for i in range(500)}, weights(f)),
        "FILE_SUSPICIOUS",
    ),
    "integer weights": (
        lambda f: edit_tensors(f, W_enc=torch.zeros(16, 48, dtype=torch.int32)),
        "UNSUPPORTED_DTYPE",
    ),
    "NaN": (lambda f: edit_tensors(f, W_enc=set_entry(float("nan"))), "WEIGHTS_NOT_FINITE"),
    "infinity": (
        lambda f: edit_tensors(f, threshold=set_entry(float("inf"))),
        "WEIGHTS_NOT_FINITE",
    ),
    "missing tensor": (lambda f: edit_tensors(f, threshold=UNSET), "SHAPE_MISMATCH"),
    "extra tensor": (lambda f: edit_tensors(f, W_extra=torch.ones(3)), "SHAPE_MISMATCH"),
    "transposed encoder": (
        lambda f: edit_tensors(f, W_enc=lambda t: t.T.contiguous()),
        "SHAPE_MISMATCH",
    ),
    "transposed decoder": (
        lambda f: edit_tensors(f, W_dec=lambda t: t.T.contiguous()),
        "SHAPE_MISMATCH",
    ),
    "bias with an axis too many": (
        lambda f: edit_tensors(f, b_dec=lambda t: t[None].contiguous()),
        "SHAPE_MISMATCH",
    ),
    "scaling_factor of an old finetuned SAE": (
        lambda f: edit_tensors(f, scaling_factor=2 * torch.ones(48)),
        "UNSUPPORTED_ARCHITECTURE",
    ),
    "no weights file": (lambda f: weights(f).unlink(), "FILE_MISSING"),
}


@pytest.mark.parametrize("name", BROKEN_WEIGHTS)
def test_broken_weights(name: str, folder: Path) -> None:
    damage, code = BROKEN_WEIGHTS[name]
    damage(folder)
    started = time.process_time()
    error = refused(folder)
    assert error.code == code, error
    assert isinstance(error, FormatError | NotFoundError)
    assert time.process_time() - started < 1.0
    assert str(folder.parent) not in str(error)
    with suppress(SaescopeError):
        peek_sae(folder)


BROKEN_CFG: dict[str, tuple[Damage, str]] = {
    "empty": (lambda f: (f / "cfg.json").write_text(""), "CONFIG_INVALID"),
    "torn": (
        lambda f: (f / "cfg.json").write_text((f / "cfg.json").read_text()[:60]),
        "CONFIG_INVALID",
    ),
    "no UTF-8": (lambda f: (f / "cfg.json").write_bytes(b'{"d_in": "\xff"}'), "CONFIG_INVALID"),
    "nested deeply": (lambda f: (f / "cfg.json").write_text("[" * 200_000), "CONFIG_INVALID"),
    "a list": (lambda f: (f / "cfg.json").write_text("[]"), "CONFIG_INVALID"),
    "null": (lambda f: (f / "cfg.json").write_text("null"), "CONFIG_INVALID"),
    "2 MB": (lambda f: edit_cfg(f, metadata={"note": "x" * 2_000_000}), "FILE_SUSPICIOUS"),
    "missing file": (lambda f: (f / "cfg.json").unlink(), "FILE_MISSING"),
    "no d_in": (lambda f: edit_cfg(f, d_in=UNSET), "CONFIG_INVALID"),
    "no d_sae": (lambda f: edit_cfg(f, d_sae=UNSET), "CONFIG_INVALID"),
    "no architecture": (lambda f: edit_cfg(f, architecture=UNSET), "CONFIG_INVALID"),
    "d_sae that lies": (lambda f: edit_cfg(f, d_sae=47), "SHAPE_MISMATCH"),
    "d_in that lies": (lambda f: edit_cfg(f, d_in=17), "SHAPE_MISMATCH"),
    "d_sae 10^13": (lambda f: edit_cfg(f, d_sae=10**13), "SHAPE_MISMATCH"),
    "d_sae 10^30": (lambda f: edit_cfg(f, d_sae=10**30), "CONFIG_INVALID"),
    "d_sae 0": (lambda f: edit_cfg(f, d_sae=0), "CONFIG_INVALID"),
    "d_in negative": (lambda f: edit_cfg(f, d_in=-16), "CONFIG_INVALID"),
    "d_in a string": (lambda f: edit_cfg(f, d_in="16"), "CONFIG_INVALID"),
    "d_in true": (lambda f: edit_cfg(f, d_in=True), "CONFIG_INVALID"),
    "d_out of an SAE": (lambda f: edit_cfg(f, d_out=12), "CONFIG_INVALID"),
    "unknown architecture": (
        lambda f: edit_cfg(f, architecture="quantum"),
        "UNSUPPORTED_ARCHITECTURE",
    ),
    "temporal": (lambda f: edit_cfg(f, architecture="temporal"), "CONFIG_INVALID"),
    "another architecture": (lambda f: edit_cfg(f, architecture="standard"), "SHAPE_MISMATCH"),
    "unknown normalisation": (
        lambda f: edit_cfg(f, normalize_activations="batch_norm"),
        "CONFIG_INVALID",
    ),
    "unknown dtype": (lambda f: edit_cfg(f, dtype="float8"), "CONFIG_INVALID"),
    "unknown key": (lambda f: edit_cfg(f, activation_temperature=2.0), "CONFIG_INVALID"),
    "topk without k": (lambda f: as_topk(f), "CONFIG_INVALID"),
    "k 0": (lambda f: as_topk(f, k=0), "CONFIG_INVALID"),
    "k above d_sae": (lambda f: as_topk(f, k=49), "CONFIG_INVALID"),
    "k a fraction": (lambda f: as_topk(f, k=4.5), "CONFIG_INVALID"),
    "k null": (lambda f: as_topk(f, k=None), "CONFIG_INVALID"),
    "rescale a string": (
        lambda f: as_topk(f, k=4, rescale_acts_by_decoder_norm="false"),
        "CONFIG_INVALID",
    ),
    "apply_b_dec_to_input a string": (
        lambda f: edit_cfg(f, apply_b_dec_to_input="false"),
        "CONFIG_INVALID",
    ),
    "apply_b_dec_to_input null": (
        lambda f: edit_cfg(f, apply_b_dec_to_input=None),
        "CONFIG_INVALID",
    ),
    "prepend_bos a string": (
        lambda f: edit_cfg(f, metadata={"sae_lens_version": "6.0.0", "prepend_bos": "no"}),
        "CONFIG_INVALID",
    ),
    "metadata a list": (lambda f: edit_cfg(f, metadata=["junk"]), "CONFIG_INVALID"),
    "widths that fall": (
        lambda f: edit_cfg(f, architecture="matryoshka_batchtopk", k=4, matryoshka_widths=[20, 8]),
        "CONFIG_INVALID",
    ),
    "a transcoder that subtracts b_dec": (
        lambda f: edit_cfg(f, architecture="jumprelu_transcoder", d_out=16),
        "CONFIG_INVALID",
    ),
    "a single head": (
        lambda f: edit_cfg(f, metadata={"hook_head_index": 3, "sae_lens_version": "6.0.0"}),
        "UNSUPPORTED_ARCHITECTURE",
    ),
    "remote code": (
        lambda f: edit_cfg(
            f,
            metadata={
                "sae_lens_version": "6.0.0",
                "model_from_pretrained_kwargs": {"trust_remote_code": True},
            },
        ),
        "REMOTE_CODE_REFUSED",
    ),
}


@pytest.mark.parametrize("changes", [{"d_sae": 10**13}, {"d_in": 17}])
def test_a_peek_describes_no_weights_but_those_that_are_there(
    changes: dict[str, int], folder: Path
) -> None:
    with pytest.raises(SaescopeError) as caught:
        peek_sae(edit_cfg(folder, **changes))
    assert caught.value.code == "SHAPE_MISMATCH"


@pytest.mark.parametrize("name", BROKEN_CFG)
def test_broken_configuration(name: str, folder: Path) -> None:
    damage, code = BROKEN_CFG[name]
    damage(folder)
    error = refused(folder)
    assert error.code == code, error
    assert str(folder.parent) not in str(error)


def legacy(folder: Path, **changes: Any) -> Path:
    cfg = {
        "d_in": 16,
        "d_sae": 48,
        "dtype": "float32",
        "hook_name": "blocks.1.hook_resid_pre",
        "model_name": "tiny",
    }
    (folder / "cfg.json").write_text(json.dumps(cfg | changes))
    return folder


def test_a_legacy_topk_without_its_name_is_not_read_as_standard(folder: Path) -> None:
    """sae-lens reads it as a standard SAE and reports an L0 thirty times too high."""
    edit_tensors(folder, threshold=UNSET)
    for changes in ({"k": 5}, {}, {"activation_fn_kwargs": {"k": 5}}):
        error = refused(legacy(folder, **changes))
        assert error.code == "AMBIGUOUS_ARCHITECTURE"
        assert "architecture" in error.hint


def test_a_legacy_topk_without_k_is_refused(folder: Path) -> None:
    edit_tensors(folder, threshold=UNSET)
    error = refused(legacy(folder, activation_fn_str="topk"))
    assert isinstance(error, ConfigError)


@pytest.mark.parametrize("case", ["gated", "jumprelu"])
def test_legacy_weights_of_another_architecture_are_not_read_as_standard(
    case: str, tmp_path: Path
) -> None:
    folder = Path(copytree(DATA / case, tmp_path / case))
    error = refused(legacy(folder, activation_fn_str="relu"))
    assert error.code == "AMBIGUOUS_ARCHITECTURE"
    assert case in str(error)


@pytest.mark.parametrize(
    "activation",
    [
        {"activation_fn_str": "tanh-relu"},
        {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5, "signed": True}},
    ],
)
def test_a_legacy_activation_that_sae_lens_would_drop_is_refused(
    activation: dict[str, Any], folder: Path
) -> None:
    edit_tensors(folder, threshold=UNSET)
    assert refused(legacy(folder, **activation)).code == "UNSUPPORTED_ARCHITECTURE"


def test_an_HTML_page_is_named_as_such(folder: Path) -> None:
    weights(folder).write_text("<html>Sign in</html>")
    assert "HTML" in str(refused(folder))


def test_a_wrong_shape_names_both_shapes(folder: Path) -> None:
    message = str(refused(edit_tensors(folder, W_enc=lambda t: t.T.contiguous())))
    assert "W_enc" in message
    assert "(48, 16)" in message
    assert "(16, 48)" in message


def test_missing_and_extra_tensors_are_named(folder: Path) -> None:
    message = str(refused(edit_tensors(folder, threshold=UNSET, theta=torch.ones(48))))
    assert "threshold" in message
    assert "theta" in message


def test_bad_numbers_are_counted(folder: Path) -> None:
    def two(tensor: torch.Tensor) -> torch.Tensor:
        return set_entry(float("nan"))(tensor).index_fill_(1, torch.tensor([0]), float("inf"))

    assert "17" in str(refused(edit_tensors(folder, W_enc=two)))


def test_remote_code_may_be_said_to_be_off(folder: Path) -> None:
    metadata = {
        "sae_lens_version": "6.0.0",
        "model_from_pretrained_kwargs": {
            "trust_remote_code": False,
            "center_writing_weights": True,
        },
    }
    assert peek_sae(edit_cfg(folder, metadata=metadata)).cfg.metadata.center_writing_weights


@pytest.mark.parametrize("value", [True, "yes", 1, {"a": 1}])
def test_remote_code_is_refused_in_any_spelling(value: object, folder: Path) -> None:
    metadata = {
        "sae_lens_version": "6.0.0",
        "model_from_pretrained_kwargs": {"trust_remote_code": value},
    }
    assert refused(edit_cfg(folder, metadata=metadata)).code == "REMOTE_CODE_REFUSED"


@pytest.mark.parametrize("name", ["ae.pt", "pytorch_model.bin", "sae.pkl"])
def test_a_pickle_is_not_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch marker'\ntR.")
    assert refused(tmp_path).code == "PICKLE_REFUSED"


def test_an_empty_folder_and_none_at_all(tmp_path: Path) -> None:
    assert refused(tmp_path).code == "UNKNOWN_FORMAT"
    assert refused(tmp_path / "nowhere").code == "FILE_MISSING"
    assert load_sae(DATA / "jumprelu" / "cfg.json", device="cpu").cfg.architecture == "jumprelu"


def test_peeking_reads_no_weight(folder: Path) -> None:
    edit_tensors(folder, W_enc=set_entry(float("nan")))
    assert peek_sae(folder).cfg.d_sae == 48


def test_weights_too_large_for_the_dtype_are_refused(folder: Path) -> None:
    edit_tensors(folder, W_enc=set_entry(1e30))
    load_sae(folder, device="cpu")
    with pytest.raises(FormatError) as caught:
        load_sae(folder, device="cpu", dtype="float16")
    assert caught.value.code == "WEIGHTS_NOT_FINITE"


JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e400,
    2.5,
    "",
    "junk",
    [],
    [1, "a"],
    {},
    {"a": None},
    10**30,
    1e300,
    -1e300,
)
TEMPLATES = (
    "topk_rescale",
    "legacy_topk",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("jumprelu_skip_transcoder", "matryoshka_batchtopk_training", "legacy_hook_z")
    ),
)


@pytest.mark.parametrize("case", TEMPLATES)
def test_any_value_under_any_key_loads_or_is_refused_in_our_words(
    case: str, tmp_path: Path
) -> None:
    """No other exception: whatever cfg.json says is a file's fault, not a crash."""
    folder = Path(copytree(DATA / case, tmp_path / case))
    original = json.loads((folder / "cfg.json").read_text())
    crashes: list[str] = []
    for key in [
        *original,
        *(f"metadata.{key}" for key in original.get("metadata", {})),
        "metadata.model_from_pretrained_kwargs",
    ]:
        outer, _, inner = key.partition(".")
        for junk in JUNK:
            value = original.get(outer, {}) | {inner: junk} if inner else junk
            (folder / "cfg.json").write_text(json.dumps(original | {outer: value}))
            try:
                load_sae(folder, device="cpu")
            except SaescopeError:
                continue
            except Exception as error:
                crashes.append(f"{key}={junk!r}: {type(error).__name__}: {str(error)[:80]}")
    assert not crashes, "\n".join(crashes)


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_header_loads_or_is_refused_in_our_words(seed: int, folder: Path) -> None:
    good = weights(folder).read_bytes()
    draw = torch.Generator().manual_seed(seed)
    for _ in range(40):
        damaged = bytearray(good)
        for position in torch.randint(0, 600, (3,), generator=draw).tolist():
            damaged[position] = int(torch.randint(0, 256, (1,), generator=draw))
        weights(folder).write_bytes(damaged)
        try:
            load_sae(folder, device="cpu")
        except SaescopeError:
            continue


NO_FILES = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to(os.devnull),
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_what_is_no_file_is_called_what_it_is(name: str, kind: str, folder: Path) -> None:
    (folder / name).unlink()
    NO_FILES[kind](folder / name)
    (folder / "alone").mkdir()
    NO_FILES[kind](folder / "alone" / "sae")
    places = [folder] if kind == "a folder" else [folder, folder / name, folder / "alone" / "sae"]
    for place in places:
        with pytest.raises(FormatError, match=f"is {kind}, not a file") as caught:
            load_sae(place, device="cpu")
        assert caught.value.code == "FILE_SUSPICIOUS" and caught.value.hint


def broken_topk(folder: Path, k: object) -> SaescopeError:
    return refused(as_topk(folder, k=k))


@pytest.mark.parametrize("k", [0, -3, 9999, 2.5, float("nan"), float("inf")])
def test_a_k_that_cannot_be_names_the_file_and_what_may_be(k: float, folder: Path) -> None:
    error = broken_topk(folder, k)
    assert error.message == f"k must be a whole number in [1, d_sae=48], got {k}."
    assert (error.field, error.got, error.allowed) == ("k", str(k), "1..48")
    assert error.hint == "Correct k in cfg.json, then load it again."


@pytest.mark.parametrize("k", ["5", None, True, [1]])
def test_a_k_of_another_type_is_shown(k: object, folder: Path) -> None:
    error = broken_topk(folder, k)
    assert error.message == f"cfg.json: k must be a number, got {k!r}."
    assert error.hint == "Correct k in cfg.json, then load it again."


@pytest.mark.parametrize("k", [0, -3, 9999, float("nan"), float("inf")])
def test_so_does_one_of_batchtopk(k: float, tmp_path: Path) -> None:
    folder = edit_cfg(Path(copytree(DATA / "batchtopk_training", tmp_path / "sae")), k=k)
    error = refused(folder)
    assert error.message == f"k must be in (0, d_sae=48], got {float(k)}."
    assert error.hint == "Correct k in cfg.json, then load it again."


def test_the_same_NaN_twice_is_no_contradiction(folder: Path) -> None:
    error = refused(edit_cfg(folder, d_in=float("nan")))
    assert error.message == "cfg.json: d_in must be a whole number, got nan."


KINDS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int64, torch.bool]


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_a_type_that_is_not_read_says_which_are(dtype: torch.dtype, folder: Path) -> None:
    error = refused(edit_tensors(folder, W_enc=lambda tensor: tensor.to(dtype)))
    assert (error.code, error.field) == ("UNSUPPORTED_DTYPE", "W_enc")
    assert error.got in ("F8_E4M3", "F8_E5M2", "I8", "I64", "BOOL") and "BF16" in error.allowed
    assert "Save its weights as float32" in error.hint and "find_saes()" in error.hint


@pytest.mark.parametrize("key", ["hook_head_index", "hook_head_index_out"])
def test_an_sae_of_one_head_says_what_else_to_load(key: str, folder: Path) -> None:
    said = json.loads((folder / "cfg.json").read_text())["metadata"]
    error = refused(edit_cfg(folder, metadata=said | {key: 3}))
    assert (error.field, error.got, error.allowed) == (key, "3", "null")
    assert "find_saes()" in error.hint


def test_a_scaling_factor_is_shown(folder: Path) -> None:
    error = refused(edit_tensors(folder, scaling_factor=2.5 * torch.ones(48)))
    assert (error.field, error.got, error.allowed) == ("scaling_factor", "2.5", "1")
    assert "find_saes()" in error.hint


@pytest.mark.parametrize("said", ["x", [], [1.5], [None, None, 0], [1, 2, 3, 4], {"a": 1}])
def test_a_slice_that_is_none_is_refused(said: object, folder: Path) -> None:
    meta = json.loads((folder / "cfg.json").read_text())["metadata"]
    error = refused(edit_cfg(folder, metadata=meta | {"seqpos_slice": said}))
    assert (error.field, error.got) == ("seqpos_slice", str(said))


def half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.bfloat16)


ROUNDED = {
    "wider than cfg.json says": ("bfloat16", lambda t: t, "float32"),
    "float64": ("float16", lambda t: t.double(), "float32"),
    "as wide, of another kind": ("float16", lambda t: half(t) * 2**-20, "bfloat16"),
}


@pytest.mark.parametrize("case", ROUNDED)
def test_weights_that_cfg_json_would_round_are_read_as_they_are_and_that_is_said(
    case: str, folder: Path
) -> None:
    claimed, change, stored = ROUNDED[case]
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    edit_cfg(edit_tensors(folder, **dict.fromkeys(names, change)), dtype=claimed)
    expected = {name: tensor.float() for name, tensor in load_file(weights(folder)).items()}
    with collected() as told:
        sae = load_sae(folder, device="cpu")
    assert sae.cfg.dtype == stored
    assert all(torch.equal(sae.tensors()[name], tensor) for name, tensor in expected.items())
    assert len(told) == 1
    assert told[0].endswith(
        f'values that the {claimed} of cfg.json rounds: read as they are; dtype="{claimed}" '
        "rounds them as sae-lens does."
    )
    with collected() as told:
        rounded = load_sae(folder, device="cpu", dtype=claimed)
    assert not told and rounded.dtype == getattr(torch, claimed)


def test_weights_that_lose_nothing_in_the_dtype_of_cfg_json_need_no_word(folder: Path) -> None:
    edit_cfg(edit_tensors(folder, W_enc=half, W_dec=half), dtype="float32")
    with collected() as told:
        assert load_sae(folder, device="cpu").cfg.dtype == "float32"
    exact = {name: half(tensor).float() for name, tensor in load_file(weights(folder)).items()}
    edit_cfg(edit_tensors(folder, **exact), dtype="bfloat16")
    with collected() as told_of_exact:
        load_sae(folder, device="cpu")
    assert not told and not told_of_exact
