"""Attribution graphs of circuit-tracer 0.5.0 on tiny random models, for tests/core/graphs.

circuit-tracer needs transformer-lens 3, so this runs in an environment of its own (pip install
circuit-tracer==0.5.0 transformer-lens==3.2.1):

    python scripts/make_circuit_tracer_references.py     # rewrites tests/data/circuit_tracer

Each case is a model as transformers saves it, transcoders in circuit-tracer's published files, and
`graph.safetensors`: what `attribute` gives for a prompt of token ids with all active features, and
what `prune_graph` and `compute_graph_scores` make of it. The model is not processed (no norm is
folded, nothing is centred), and everything is float32.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.graph import compute_graph_scores, compute_node_influence, prune_graph
from circuit_tracer.replacement_model.replacement_model_transformerlens import (
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from safetensors.torch import save_file
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.loading_from_pretrained import (
    get_pretrained_model_config,
    get_pretrained_state_dict,
)
from transformer_lens.pretrained.weight_conversions import convert_gemma_weights
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

DATA = Path(__file__).parent.parent / "tests" / "data"
OUT = DATA / "circuit_tracer"
D, D_SAE, N_HEADS = 16, 32, 2
TOKENS = [2, 185, 552, 116, 214, 63, 470, 99]  # BOS first
COMMON: dict[str, Any] = {"vocab_size": 1024, "bos_token_id": 2, "eos_token_id": 3}
SIZES: dict[str, Any] = {
    "hidden_size": D,
    "intermediate_size": 2 * D,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": 1,
    "head_dim": D // N_HEADS,
    "max_position_embeddings": 32,
}
CASES: dict[str, dict[str, Any]] = {
    "gpt2_relu": {"family": "gpt2", "reads": "mlp.hook_in"},
    "gpt2_clt": {"family": "gpt2", "reads": "hook_resid_mid", "clt": True},
    "llama_skip": {"family": "llama", "reads": "mlp.hook_in", "skip": True},
    "gemma2_jumprelu": {"family": "gemma2", "reads": "ln2.hook_normalized", "jumprelu": True},
}
WRITES = "hook_mlp_out"


def build(family: str) -> Any:
    """A random model; norms and biases are not at their initial ones and zeros."""
    torch.manual_seed(0)
    hf: Any
    if family == "gpt2":
        hf = GPT2LMHeadModel(
            GPT2Config(n_embd=D, n_layer=3, n_head=N_HEADS, n_positions=32, n_ctx=32, **COMMON)
        )
    elif family == "llama":
        hf = LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, **SIZES, **COMMON))
    else:
        caps = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 20.0}
        # transformer-lens takes the layers with a window for those without, and the other way
        # round: the prompt is shorter than the window.
        windows = {"query_pre_attn_scalar": D // N_HEADS, "sliding_window": 16}
        hf = Gemma2ForCausalLM(
            Gemma2Config(num_hidden_layers=2, pad_token_id=0, **SIZES, **COMMON, **caps, **windows)
        )
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter += 0.25 * torch.randn_like(parameter)
        if family == "llama":  # few tokens have most of the probability
            hf.lm_head.weight *= 15
    hf.config._attn_implementation = "eager"  # the others leave out the cap of Gemma 2's scores
    return hf.eval()


def lens_config(family: str, hf: Any, folder: Path) -> HookedTransformerConfig:
    """transformer-lens's own, but of Gemma 2 it knows the published sizes only."""
    if family != "gemma2":
        return get_pretrained_model_config(str(folder), fold_ln=False, device="cpu")
    return HookedTransformerConfig(
        d_model=D,
        d_head=D // N_HEADS,
        n_heads=N_HEADS,
        n_key_value_heads=1,
        d_mlp=2 * D,
        n_layers=hf.config.num_hidden_layers,
        n_ctx=32,
        eps=hf.config.rms_norm_eps,
        d_vocab=1024,
        act_fn="gelu_pytorch_tanh",
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=D // N_HEADS,
        use_local_attn=True,
        attn_types=["global", "local"],
        window_size=16,
        attn_scores_soft_cap=20.0,
        output_logits_soft_cap=3.0,
        gated_mlp=True,
        final_rms=True,
        use_normalization_before_and_after=True,
        original_architecture="Gemma2ForCausalLM",
        device="cpu",
        dtype=torch.float32,
    )


def lens_model(family: str, hf: Any, transcoders: Any) -> TransformerLensReplacementModel:
    """The replacement model of circuit-tracer around the weights of `hf`, unprocessed."""
    with tempfile.TemporaryDirectory() as folder:  # transformer-lens guesses from the name
        hf.save_pretrained(folder)
        cfg = lens_config(family, hf, Path(folder))
        if family == "gemma2":
            state = convert_gemma_weights(hf, cfg)
        else:
            state = get_pretrained_state_dict(folder, cfg, hf)
    cfg.tokenizer_name = None  # the model would load it from the folder
    model: Any = TransformerLensReplacementModel(cfg, move_to_device=False)
    HookedTransformer.load_and_process_state_dict(
        model,
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    ids = torch.tensor([TOKENS])
    torch.testing.assert_close(model(ids), hf(ids).logits, rtol=1e-4, atol=1e-4)
    model._configure_replacement_model(transcoders)
    # Names the targets only.
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(DATA / "glassllm-en" / "tokenizer.json"),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
    )
    return model


def random(generator: torch.Generator, *shape: int, scale: float) -> Tensor:
    return scale * torch.randn(*shape, generator=generator)


def save_set(folder: Path, case: dict[str, Any], n_layers: int) -> Any:
    """Write a transcoder for each layer, and load them as circuit-tracer does."""
    g = torch.Generator().manual_seed(1)
    for layer in range(n_layers):
        tensors = {
            "W_enc": random(g, D_SAE, D, scale=D**-0.5),
            "W_dec": random(g, D_SAE, D, scale=D**-0.5),
            "b_enc": random(g, D_SAE, scale=0.1) - 0.7,
            "b_dec": random(g, D, scale=0.1),
        }
        if case.get("skip"):
            tensors["W_skip"] = random(g, D, D, scale=0.5 * D**-0.5)
        if case.get("jumprelu"):
            tensors["activation_function.threshold"] = random(g, D_SAE, scale=0.2).abs()
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    return load_transcoder_set(
        {i: str(folder / f"layer_{i}.safetensors") for i in range(n_layers)},
        scan="tiny",
        feature_input_hook=case["reads"],
        feature_output_hook=WRITES,
        device=torch.device("cpu"),
    )


def save_clt(folder: Path, case: dict[str, Any], n_layers: int) -> Any:
    """Write a cross-layer transcoder, and load it as circuit-tracer does."""
    g = torch.Generator().manual_seed(1)
    for layer in range(n_layers):
        encoder = {
            f"W_enc_{layer}": random(g, D_SAE, D, scale=D**-0.5),
            f"b_enc_{layer}": random(g, D_SAE, scale=0.1) - 0.7,
            f"b_dec_{layer}": random(g, D, scale=0.1),
        }
        decoder = random(g, D_SAE, n_layers - layer, D, scale=D**-0.5)
        save_file(encoder, folder / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": decoder}, folder / f"W_dec_{layer}.safetensors")
    return load_clt(
        str(folder),
        feature_input_hook=case["reads"],
        feature_output_hook=WRITES,
        scan="tiny",
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def config_yaml(case: dict[str, Any], family: str) -> str:
    kind = "cross_layer_transcoder" if case.get("clt") else "transcoder_set"
    return (
        f"model_name: tiny-{family}\nmodel_kind: {kind}\nfeature_input_hook: {case['reads']}\n"
        f"feature_output_hook: {WRITES}\nscan: tiny\n"
    )


def reference(model: TransformerLensReplacementModel) -> dict[str, Tensor]:
    """The graph of the prompt and what upstream makes of it."""
    graph = attribute(torch.tensor(TOKENS), model, batch_size=64)
    pruned = prune_graph(graph)
    matrix, n_logits = graph.adjacency_matrix, len(graph.logit_targets)
    weights = torch.zeros(len(matrix))
    weights[-n_logits:] = graph.logit_probabilities
    with_rows = torch.ones(len(matrix), dtype=torch.bool)
    with_rows[len(graph.selected_features) : -n_logits] = False
    assert not matrix[~with_rows].any(), "errors and tokens have no inputs"
    assert len(graph.selected_features) == len(graph.active_features), "no feature was left out"
    return {
        "tokens": torch.tensor(TOKENS),
        "active_features": graph.active_features.int(),
        "activation_values": graph.activation_values,
        "logit_tokens": graph.logit_token_ids,
        "logit_probabilities": graph.logit_probabilities,
        "rows": matrix[with_rows],
        "node_influence": compute_node_influence(matrix, weights),
        "node_mask": pruned.node_mask,
        "edges": pruned.edge_mask.nonzero().int(),
        "scores": torch.tensor(compute_graph_scores(graph)),
    }


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    models = {family: build(family) for family in ("gpt2", "llama", "gemma2")}
    for family, hf in models.items():
        hf.save_pretrained(OUT / f"tiny-{family}")
    for name, case in CASES.items():
        family, folder = case["family"], OUT / name
        folder.mkdir(parents=True)
        hf = models[family]
        save = save_clt if case.get("clt") else save_set
        transcoders = save(folder, case, hf.config.num_hidden_layers)
        (folder / "config.yaml").write_text(config_yaml(case, family))
        found = reference(lens_model(family, hf, transcoders))
        save_file(
            {k: v.detach().contiguous() for k, v in found.items()}, folder / "graph.safetensors"
        )
        sizes = {key: list(value.shape) for key, value in found.items()}
        print(name, json.dumps(sizes), found["scores"].tolist(), int(found["node_mask"].sum()))


if __name__ == "__main__":
    main()
