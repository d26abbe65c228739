"""Attribution graphs beside circuit-tracer 0.5.0: time and memory of the same graph.

    PYTHONPATH=core .venv/bin/python benchmarks/circuits.py PEERS/bin/python [--rounds 3]

PEERS is an environment of its own with circuit-tracer==0.5.0 and transformer-lens==3.2.1. Both read
the same files: a random Llama of 10 layers, d_model 384 (`--smollm2`: 30 layers, 576), with a TopK
transcoder of 2,304 features a layer, k 32. Each side is a process that loads everything, traces a
prompt of 16 tokens to warm up, and then takes its turn (A B A B): one graph of the most likely
tokens with `--features` feature nodes, one thread, float32, all weights in memory. circuit-tracer
takes batches of 4,096 positions: its default holds the forward pass of 512 copies of the prompt,
which does not fit here. Both must find as many active features, and the same targets. Peak memory
is the highest resident set of the process above that of the loaded, warm one.

What came of it is in docs/benchmarks.md ("Circuits beside circuit-tracer").

Most of our time is the backward pass (63 % of the CPU time at 64 tokens and 1,000 nodes, 62 % at
256 and 300), then the products with decoder rows (20 and 27 %).
"""

import argparse
import contextlib
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

GLASS = Path(__file__).parent.parent / "tests" / "data" / "glassllm-en"
D_SAE, K, VOCAB = 2304, 32, 1024
WARM_UP = 16
POSITIONS = 4096
Trace = Callable[[list[int], int], dict[str, Any]]


class Shape(NamedTuple):
    """The size of the model."""

    d_model: int
    d_mlp: int
    n_layers: int
    n_heads: int
    n_kv_heads: int


SMALL, SMOLLM2 = Shape(384, 1024, 10, 6, 2), Shape(576, 1536, 30, 9, 3)


def write_files(folder: Path, shape: Shape) -> None:
    """The model and its transcoders; the folder's name says no family, or transformer-lens 3 takes
    the sizes of a published model."""
    import shutil

    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        max_position_embeddings=512,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.05,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(GLASS / name, folder)
    settings = ["model_kind: transcoder_set", "feature_input_hook: mlp.hook_in"]
    settings += ["feature_output_hook: hook_mlp_out", "activation: topk", f"k: {K}"]
    (folder / "set").mkdir()
    (folder / "set" / "config.yaml").write_text("\n".join(settings))
    d = shape.d_model
    for layer in range(shape.n_layers):
        tensors = {"W_enc": torch.randn(D_SAE, d) / d**0.5, "b_enc": torch.zeros(D_SAE)}
        tensors |= {"W_dec": torch.randn(D_SAE, d) / d**0.5 / K, "b_dec": torch.zeros(d)}
        save_file(tensors, folder / "set" / f"layer_{layer}.safetensors")


def layer_files(folder: Path) -> list[Path]:
    """The transcoders' files, layer by layer."""
    n_layers = len([*(folder / "set").glob("layer_*")])
    return [folder / "set" / f"layer_{i}.safetensors" for i in range(n_layers)]


def ours(folder: Path) -> Trace:
    import torch

    from saescope.graphs.members import held
    from saescope.graphs.targets import choose_targets
    from saescope.graphs.trace import trace
    from saescope.load import load_sae
    from saescope.models import Tokens, load_model
    from saescope.records.graph import GraphSettings

    torch.set_num_threads(1)
    model = load_model(folder, device="cpu", dtype="float32")
    files = layer_files(folder)
    members = held(model, [load_sae(file, device="cpu") for file in files])

    def run(ids: list[int], n_features: int) -> dict[str, Any]:
        tensor = torch.tensor(ids)
        tokens = Tokens(tensor, torch.zeros(len(ids), dtype=torch.bool), ("",) * len(ids), True)
        settings = GraphSettings(max_features=n_features)
        logits = model.forward(model.batch(tensor))[0][0, -1]
        targets = choose_targets(model, logits, named=(), against=None, settings=settings)
        traced = trace(model, members, tokens, targets, settings)
        return {
            "active": traced.store.columns.n_features,
            "rows": traced.store.n,
            "targets": [target.token for target in targets],
            "replacement": traced.influence.replacement,
        }

    return run


def theirs(folder: Path) -> Trace:
    import torch
    from circuit_tracer.attribution.attribute import attribute
    from circuit_tracer.graph import compute_graph_scores, prune_graph
    from circuit_tracer.replacement_model.replacement_model_transformerlens import (
        TransformerLensReplacementModel,
    )
    from circuit_tracer.transcoder.activation_functions import TopK
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import (
        get_pretrained_model_config,
        get_pretrained_state_dict,
    )
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    transcoders = load_transcoder_set(
        {i: str(file) for i, file in enumerate(layer_files(folder))},
        scan="random",
        feature_input_hook="mlp.hook_in",
        feature_output_hook="hook_mlp_out",
        device=torch.device("cpu"),
        lazy_encoder=False,
        lazy_decoder=False,
    )
    for transcoder in transcoders:
        transcoder.activation_function = TopK(K)
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    cfg = get_pretrained_model_config(str(folder), fold_ln=False, device="cpu")
    state = get_pretrained_state_dict(str(folder), cfg, hf)
    cfg.tokenizer_name = None  # the model would load it from the folder
    model: Any = TransformerLensReplacementModel(cfg, move_to_device=False)
    off = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    HookedTransformer.load_and_process_state_dict(model, state, **dict.fromkeys(off, False))
    model._configure_replacement_model(transcoders)
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<bos>"
    )

    def run(ids: list[int], n_features: int) -> dict[str, Any]:
        graph = attribute(
            torch.tensor(ids),
            model,
            batch_size=POSITIONS // len(ids),
            max_feature_nodes=n_features,
        )
        prune_graph(graph)
        return {
            "active": len(graph.active_features),
            "rows": len(graph.selected_features) + len(graph.logit_targets),
            "targets": graph.logit_token_ids.tolist(),
            "replacement": compute_graph_scores(graph)[0],
        }

    return run


def resident(field: str) -> float:
    """MB of this process: VmRSS now, or VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def serve(side: str, folder: Path) -> None:
    """Answer each line, a request for one graph, by what it took."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        run = {"ours": ours, "theirs": theirs}[side](folder)
        run(list(range(2, 2 + WARM_UP)), 100)
        ctypes.CDLL(None).malloc_trim(0)
        before = resident("VmRSS")
        print(json.dumps({"loaded_mb": before}), file=answers, flush=True)
        for line in sys.stdin:
            ids, n_features = json.loads(line)
            Path("/proc/self/clear_refs").write_text("5")  # the highest from here on
            wall, cpu = time.perf_counter(), time.process_time()
            found = run(ids, n_features)
            found |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            found["mb"] = resident("VmHWM") - before
            ctypes.CDLL(None).malloc_trim(0)
            print(json.dumps(found), file=answers, flush=True)


class Side:
    """One of the two processes."""

    def __init__(self, python: str, side: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [python, __file__, "--serve", side, "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("LOUD") else subprocess.DEVNULL,
            text=True,
        )
        self.loaded = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process ended; LOUD=1 shows why"
        return json.loads(line)

    def __call__(self, ids: list[int], n_features: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(json.dumps([ids, n_features]), file=self.process.stdin, flush=True)
        return self._answer()


def compare(sides: dict[str, Side], ids: list[int], n_features: int, rounds: int) -> None:
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            taken[name].append(side(ids, n_features))
            print(name, json.dumps(taken[name][-1]), file=sys.stderr, flush=True)
    first, second = (taken[name][0] for name in sides)
    assert first["active"] == second["active"], (first, second)
    assert first["rows"] == second["rows"], (first, second)
    assert first["targets"] == second["targets"], (first, second)
    print(
        f"\n{len(ids)} tokens, {first['active']:,} active features, {n_features:,} of them nodes "
        f"(replacement {first['replacement']:.4f}, {second['replacement']:.4f})\n"
        "| side | wall s | CPU s | peak MB |\n|---|---|---|---|",
        flush=True,
    )
    for name, runs in taken.items():
        wall, cpu, mb = ([run[key] for run in runs] for key in ("wall", "cpu", "mb"))
        print(
            f"| {name} | {statistics.median(wall):.2f} | {statistics.median(cpu):.2f} | "
            f"{max(mb):,.0f} |"
        )
    ratios = {
        key: statistics.median(
            a[key] / b[key] for a, b in zip(taken["ours"], taken["theirs"], strict=True)
        )
        for key in ("wall", "cpu")
    }
    memory = max(run["mb"] for run in taken["ours"]) / max(run["mb"] for run in taken["theirs"])
    print(f"ours / theirs: wall {ratios['wall']:.2f}, CPU {ratios['cpu']:.2f}, peak {memory:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--smollm2", action="store_true", help="a model of SmolLM2-135M's shape")
    parser.add_argument("--serve")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.folder)
    else:
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), SMOLLM2 if arguments.smollm2 else SMALL)
        pythons = {"ours": sys.executable, "theirs": arguments.peer}
        sides = {name: Side(python, name, Path(folder)) for name, python in pythons.items()}
        print(f"load {os.getloadavg()[0]:.1f}, {arguments.rounds} rounds, {arguments.features}")
        for n_tokens in arguments.tokens:
            generator = torch.Generator().manual_seed(n_tokens)
            ids = torch.randint(4, VOCAB, (n_tokens - 1,), generator=generator).tolist()
            compare(sides, [2, *ids], arguments.features, arguments.rounds)
        for side in sides.values():
            side.process.terminate()
            side.process.wait()


if __name__ == "__main__":
    main()
