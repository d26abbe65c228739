"""Models of seven families from folders that transformers wrote, each beside a plain Hugging Face
model of the same files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.oracle import FAMILIES, Family, Reference
from transformers import AutoTokenizer, set_seed

from saescope.models import load_model

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 96,
}
COMMON: dict[str, Any] = {
    "vocab_size": 1024,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "head_dim": 8}


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=96, **COMMON))


def _gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    caps: dict[str, Any] = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 20.0}
    return Gemma2ForCausalLM(
        Gemma2Config(**GROUPED, **COMMON, query_pre_attn_scalar=8, sliding_window=8, **caps)
    )


def _gemma3() -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(
        Gemma3TextConfig(**GROUPED, **COMMON, query_pre_attn_scalar=8, sliding_window=8)
    )


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**GROUPED, **COMMON))


def _qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**GROUPED, **COMMON))


def _neox() -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, **COMMON))


BUILDERS: dict[str, Callable[[], Any]] = {
    "gpt2": _gpt2,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "llama": _llama,
    "qwen3": _qwen3,
    "neox": _neox,
}
# transformer-lens, where an edit at a norm is meant
EDIT_WARNING = "ignore:A forward hook edited hook_scale/hook_normalized"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", EDIT_WARNING)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts are drawn from a pool of some documents: a source does not tokenize the whole
    corpus for its first batch."""
    monkeypatch.setattr("saescope.activations.tokens.POOL_TOKENS", 2**13)
    monkeypatch.setattr("saescope.activations.tokens.BATCH_CHARS", 2**14)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory, glass_dir: Path) -> Callable[[str], Path]:
    """The model folder of a family, written by save_pretrained; norms and biases are not at their
    initial ones and zeros."""
    made: dict[str, Path] = {"glass": glass_dir}

    def folder(family: str) -> Path:
        if family not in made:
            set_seed(0)
            hf = BUILDERS[family]()
            with torch.no_grad():
                for parameter in hf.parameters():
                    parameter += 0.1 * torch.randn_like(parameter)
            made[family] = tmp_path_factory.mktemp("model") / f"tiny-{family}"
            hf.save_pretrained(made[family])
            AutoTokenizer.from_pretrained(glass_dir).save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def family_of(folder_of: Callable[[str], Path]) -> Callable[[str], Family]:
    made: dict[str, Family] = {}

    def family(name: str) -> Family:
        if name not in made:
            folder = folder_of(name)
            made[name] = Family(name, folder, load_model(folder, device="cpu"), Reference(folder))
        return made[name]

    return family


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, family_of: Callable[[str], Family]) -> Family:
    return family_of(request.param)


@pytest.fixture
def gpt2(family_of: Callable[[str], Family]) -> Family:
    return family_of("gpt2")


@pytest.fixture
def llama(family_of: Callable[[str], Family]) -> Family:
    return family_of("llama")


@pytest.fixture
def ids() -> torch.Tensor:
    """BOS and ten tokens of text, with a batch dimension."""
    return torch.tensor([[2, 185, 552, 116, 214, 63, 470, 99, 300, 41, 77]])
