"""Tiny random models of every family that transformers can build from a config and transformer-lens
holds."""

from pathlib import Path
from typing import Any

import torch

COMMON: dict[str, Any] = {
    "vocab_size": 1024,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "initializer_range": 0.2,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 96,
}
GROUPED: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}
ALL_HEADS: dict[str, Any] = {"num_key_value_heads": 4}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
GPT: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96, "n_ctx": 96}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
GLM_MOE: dict[str, Any] = GROUPED | {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "afmoe": ("AfmoeForCausalLM", GROUPED | EXPERTS | {"num_dense_layers": 1}),
    "apertus": ("ApertusForCausalLM", GROUPED),
    "arcee": ("ArceeForCausalLM", GROUPED),
    "bitnet": ("BitNetForCausalLM", ALL_HEADS),
    "bamba": (
        "BambaForCausalLM",
        GROUPED | {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8},
    ),
    "bloom": ("BloomForCausalLM", {"n_layer": 2, "n_head": 4}),
    "codegen": ("CodeGenForCausalLM", GPT | {"rotary_dim": 4}),
    "cohere": ("CohereForCausalLM", GROUPED),
    "cohere2": ("Cohere2ForCausalLM", GROUPED | {"sliding_window": 8}),
    "deepseek2": ("DeepseekV2ForCausalLM", LATENT),
    "deepseek3": ("DeepseekV3ForCausalLM", LATENT),
    "ernie4_5": ("Ernie4_5ForCausalLM", GROUPED),
    "ernie4_5_moe": (
        "Ernie4_5_MoeForCausalLM",
        GROUPED
        | {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 32,
            "moe_layer_start_index": 0,
        },
    ),
    "exaone4": ("Exaone4ForCausalLM", GROUPED | {"sliding_window": 8, "sliding_window_pattern": 2}),
    "falcon": ("FalconForCausalLM", {"new_decoder_architecture": False, "multi_query": True}),
    "falcon_new": ("FalconForCausalLM", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_serial": (
        "FalconForCausalLM",
        {"parallel_attn": False, "alibi": True, "bias": True, "multi_query": False},
    ),
    "falcon_h1": (
        "FalconH1ForCausalLM",
        GROUPED | {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64},
    ),
    "falcon_mamba": ("FalconMambaForCausalLM", {}),
    "flex_olmo": ("FlexOlmoForCausalLM", ALL_HEADS | EXPERTS),
    "gemma": ("GemmaForCausalLM", GROUPED),
    "gemma2": (
        "Gemma2ForCausalLM",
        GROUPED | {"query_pre_attn_scalar": 8, "sliding_window": 8, "final_logit_softcapping": 3.0},
    ),
    "gemma3": ("Gemma3ForCausalLM", GROUPED | {"query_pre_attn_scalar": 8, "sliding_window": 8}),
    "gemma4": (
        "Gemma4ForCausalLM",
        GROUPED
        | {
            "global_head_dim": 8,
            "sliding_window": 8,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "vocab_size_per_layer_input": 1024,
        },
    ),
    "glm": ("GlmForCausalLM", GROUPED),
    "glm4": ("Glm4ForCausalLM", GROUPED),
    "glm4_moe": ("Glm4MoeForCausalLM", GLM_MOE),
    "glm4_moe_lite": ("Glm4MoeLiteForCausalLM", LATENT),
    "gpt2": ("GPT2LMHeadModel", GPT),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", GPT | {"multi_query": True}),
    "gpt_oss": ("GptOssForCausalLM", GROUPED | EXPERTS | {"sliding_window": 8}),
    "gptj": ("GPTJForCausalLM", GPT | {"rotary_dim": 4}),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", {}),
    "gpt_neox_serial": ("GPTNeoXForCausalLM", {"use_parallel_residual": False}),
    "granite": (
        "GraniteForCausalLM",
        ALL_HEADS
        | {"residual_multiplier": 0.5, "embedding_multiplier": 3.0, "logits_scaling": 2.0},
    ),
    "granite_moe": ("GraniteMoeForCausalLM", ALL_HEADS | EXPERTS),
    "granite_moe_hybrid": (
        "GraniteMoeHybridForCausalLM",
        ALL_HEADS
        | EXPERTS
        | {
            "layer_types": ["attention", "attention"],
            "shared_intermediate_size": 32,
            "position_embedding_type": "rope",
            "mamba_n_heads": 8,
        },
    ),
    "helium": ("HeliumForCausalLM", GROUPED),
    "hunyuan": ("HunYuanDenseV1ForCausalLM", GROUPED),
    "jais2": ("Jais2ForCausalLM", GROUPED),
    "jamba": (
        "JambaForCausalLM",
        GROUPED
        | EXPERTS
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    ),
    "jetmoe": (
        "JetMoeForCausalLM",
        {"num_key_value_heads": 4, "kv_channels": 8, "num_local_experts": 4},
    ),
    "lfm2": ("Lfm2ForCausalLM", GROUPED | {"layer_types": ["conv", "full_attention"]}),
    "lfm2_moe": (
        "Lfm2MoeForCausalLM",
        GROUPED | EXPERTS | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    ),
    "llama": ("LlamaForCausalLM", GROUPED),
    "llama4": (
        "Llama4ForCausalLM",
        GROUPED | EXPERTS | {"intermediate_size_mlp": 64, "attention_chunk_size": 8},
    ),
    "mamba": ("MambaForCausalLM", {}),
    "mamba2": ("Mamba2ForCausalLM", {"num_heads": 8, "head_dim": 8}),
    "minimax_m2": ("MiniMaxM2ForCausalLM", GROUPED | EXPERTS),
    "ministral3": ("Ministral3ForCausalLM", GROUPED),
    "mistral": ("MistralForCausalLM", GROUPED),
    "mixtral": ("MixtralForCausalLM", GROUPED | EXPERTS),
    "modernbert_decoder": ("ModernBertDecoderForCausalLM", {}),
    "mpt": (
        "MptForCausalLM",
        {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 96, "expansion_ratio": 2},
    ),
    "nanochat": ("NanoChatForCausalLM", ALL_HEADS),
    "nemotron": ("NemotronForCausalLM", GROUPED),
    "nemotron_h": (
        "NemotronHForCausalLM",
        GROUPED | EXPERTS | {"mamba_num_heads": 8, "mamba_head_dim": 8},
    ),
    "olmo": ("OlmoForCausalLM", ALL_HEADS),
    "olmo2": ("Olmo2ForCausalLM", ALL_HEADS),
    "olmo3": ("Olmo3ForCausalLM", ALL_HEADS | {"sliding_window": 8}),
    "olmoe": ("OlmoeForCausalLM", ALL_HEADS | EXPERTS),
    "olmo_hybrid": ("OlmoHybridForCausalLM", ALL_HEADS),
    "openai_gpt": ("OpenAIGPTLMHeadModel", GPT),
    "opt": ("OPTForCausalLM", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "opt_post": (
        "OPTForCausalLM",
        {"ffn_dim": 64, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
    ),
    "persimmon": ("PersimmonForCausalLM", {}),
    "phi": ("PhiForCausalLM", {}),
    "phi3": ("Phi3ForCausalLM", ALL_HEADS),
    "phimoe": ("PhimoeForCausalLM", GROUPED | EXPERTS),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        GROUPED | EXPERTS | {"shared_expert_intermediate_size": 32},
    ),
    "qwen3": ("Qwen3ForCausalLM", GROUPED),
    "qwen3_moe": ("Qwen3MoeForCausalLM", GROUPED | EXPERTS),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        GROUPED
        | EXPERTS
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 32,
        },
    ),
    "qwen3_5": (
        "Qwen3_5ForCausalLM",
        GROUPED
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "recurrent_gemma": (
        "RecurrentGemmaForCausalLM",
        GROUPED
        | {"lru_width": 32, "attention_window_size": 8, "block_types": ["recurrent", "attention"]},
    ),
    "rwkv": ("RwkvForCausalLM", {"context_length": 96, "attention_hidden_size": 32}),
    "seed_oss": ("SeedOssForCausalLM", GROUPED),
    "smollm3": ("SmolLM3ForCausalLM", GROUPED | {"no_rope_layer_interval": 2}),
    "stablelm": ("StableLmForCausalLM", ALL_HEADS),
    "stablelm_parallel": ("StableLmForCausalLM", ALL_HEADS | {"use_parallel_residual": True}),
    "starcoder2": ("Starcoder2ForCausalLM", GROUPED),
    "vaultgemma": (
        "VaultGemmaForCausalLM",
        GROUPED | {"query_pre_attn_scalar": 8, "sliding_window": 8},
    ),
    "xglm": (
        "XGLMForCausalLM",
        {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64},
    ),
    "youtu": ("YoutuForCausalLM", LATENT),
    "zamba2": (
        "Zamba2ForCausalLM",
        GROUPED
        | {"layers_block_type": ["mamba", "hybrid"], "n_mamba_heads": 8, "mamba_d_state": 8},
    ),
}

NOISE = 0.1
"""Of what is added to every weight, so that no norm or bias is at its initial value."""


def build(family: str, folder: Path, tokenizer: Any) -> Path:
    """The family's model folder, as save_pretrained writes it; no norm or bias is at its initial
    value."""
    import transformers

    architecture, own = FAMILIES[family]
    kind: Any = getattr(transformers, architecture)
    torch.manual_seed(0)
    hf = kind(kind.config_class(**(COMMON | own)))
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter += NOISE * torch.randn_like(parameter)
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
