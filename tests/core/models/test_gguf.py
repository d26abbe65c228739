"""A GGUF file computes what its dequantised weights do in plain transformers, and is unpacked
once."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import pytest
import torch
from torch import Tensor

from saescope.models import LanguageModel, load_model, unpacked
from saescope.names import home

D, N_HEADS, N_LAYERS, D_MLP = 64, 4, 2, 96
TEXT = "It was 1865, and Alice said so."
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


class Made(NamedTuple):
    """A GGUF file, and the model of transformers that it holds."""

    path: Path
    plain: Any

    def logits(self, ids: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.plain(ids).logits


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    tokens = _byte_tokens()
    plain = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=D,
            intermediate_size=D_MLP,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=N_HEADS,
            num_key_value_heads=N_HEADS,
            max_position_embeddings=128,
            tie_word_embeddings=False,
            bos_token_id=256,
            eos_token_id=256,
        )
    ).eval()
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    _write_header(writer, tokens)
    for name, weight in plain.state_dict().items():
        weight.copy_(_write(writer, name, weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Made(path, plain)


def _byte_tokens() -> list[str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*bytes_to_unicode().values(), "<|end|>"]


def _write_header(writer: gguf.GGUFWriter, tokens: list[str]) -> None:
    writer.add_block_count(N_LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(D // N_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_merges([])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(256)


def _write(writer: gguf.GGUFWriter, name: str, weight: Tensor) -> Tensor:
    """Write a weight, matrices in 8 bits, and return what is then read of it."""
    kept = weight.numpy()
    if weight.dim() == 1:
        writer.add_tensor(_gguf_name(name), kept)
        return weight
    if "q_proj" in name or "k_proj" in name:  # GGUF has the halves of a rotation side by side
        kept = kept.reshape(N_HEADS, 2, D // N_HEADS // 2, D).swapaxes(1, 2).reshape(D, D)
    kind = gguf.GGMLQuantizationType.Q8_0
    packed = gguf.quantize(kept, kind)
    writer.add_tensor(_gguf_name(name), packed, raw_dtype=kind)
    read = gguf.dequantize(packed, kind)
    if "q_proj" in name or "k_proj" in name:
        read = read.reshape(N_HEADS, D // N_HEADS // 2, 2, D).swapaxes(1, 2).reshape(D, D)
    return torch.from_numpy(read.copy())


def _gguf_name(name: str) -> str:
    outside = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in outside:
        return outside[name]
    _, _, layer, inside = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[inside]}.weight"


def check(model: LanguageModel, made: Made) -> None:
    ids = model.tokenize(TEXT).ids[None]
    torch.testing.assert_close(model.forward(ids)[0], made.logits(ids), rtol=0, atol=1e-5)
    assert (model.name, model.revision) == ("tiny.gguf", "local files")


def load(made: Made) -> tuple[LanguageModel, list[str]]:
    said = list[str]()
    return load_model(made.path, device="cpu", progress=said.append), said


def kept() -> list[Path]:
    return [*(home() / "models").glob("gguf-*")]


def test_a_gguf_file_is_unpacked_once_and_computes_what_its_weights_do(made: Made) -> None:
    first, said = load(made)
    check(first, made)
    assert any("unpacking tiny.gguf to float32, once: 0.0 GB on disk" in line for line in said)
    (folder,) = kept()
    second, said = load(made)
    assert said == ["loading tiny.gguf"]
    check(second, made)
    assert second.tokenize(TEXT).ids.tolist() == first.tokenize(TEXT).ids.tolist()
    assert kept() == [folder]


def test_the_same_file_elsewhere_is_not_unpacked_again_and_another_one_is(made: Made) -> None:
    load(made)
    moved = made.path.with_name("moved.gguf")
    shutil.copy(made.path, moved)
    assert load(Made(moved, made.plain))[1] == ["loading moved.gguf"]
    other = bytearray(made.path.read_bytes())
    other[-1] ^= 1
    made.path.write_bytes(other)
    assert len(load(made)[1]) == 2 and len(kept()) == 2


@pytest.mark.parametrize("damage", ["shortened", "of other versions", "without its mark"])
def test_what_was_unpacked_is_not_trusted(
    made: Made, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(made)
    (folder,) = kept()
    mark = folder / unpacked.MARK
    if damage == "shortened":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "of other versions":
        told = json.loads(mark.read_text())
        mark.write_text(json.dumps(told | {"versions": {"transformers": "4.0"}}))
    else:
        mark.unlink()
    model, said = load(made)
    assert any("unpacking" in line for line in said)
    check(model, made)


def test_without_room_on_the_disk_it_is_unpacked_in_memory(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked, "SPARE_BYTES", 1 << 60)
    model, said = load(made)
    assert any("is unpacked in memory and not kept" in line for line in said)
    check(model, made)
    assert not kept()


def test_a_tokenizer_that_is_not_read_back_as_it_was_is_not_kept(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = unpacked.export_gguf

    def spoilt(path: Path, folder: Path) -> Any:
        tokenizer = export(path, folder)
        written = folder / "tokenizer.json"
        told = json.loads(written.read_text())
        told["model"]["vocab"] = {
            token: 255 - index if index < 256 else index
            for token, index in told["model"]["vocab"].items()
        }
        written.write_text(json.dumps(told))
        return tokenizer

    monkeypatch.setattr(unpacked, "export_gguf", spoilt)
    model, said = load(made)
    assert any("its tokenizer is not read back as it was written" in line for line in said)
    check(model, made)
    assert not kept()


def test_where_nothing_can_be_written_it_is_unpacked_in_memory(made: Made) -> None:
    home().write_text("a file where the folder would be")
    model, said = load(made)
    assert any("is unpacked in memory and not kept" in line for line in said)
    check(model, made)
