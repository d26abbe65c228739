"""Harvest and mixing buffer side by side with sae-lens 6.54, in one process, candidates in shuffled
order each round.

Runs in the environment of sae-lens:
    PYTHONPATH=core PEERS/bin/python benchmarks/harvest.py MODEL_FOLDER [--rounds 7]
Figures are CPU seconds of the process (other processes disturb them less than wall time); ratios
are medians of per-round ratios.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}

import torch
import transformer_lens.loading_from_pretrained as loading
from sae_lens.load_model import HookedProxyLM
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.training.mixing_buffer import mixing_buffer
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

from saescope.activations import ActivationStore, Harvester, RowSource, StoreConfig
from saescope.models import load_model

LAYER = 14
Candidates = dict[str, Callable[[], Any]]


def interleaved(candidates: Candidates, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each candidate in each round; the first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for index in range(rounds + 1):
        for name in random.sample(list(candidates), len(candidates)):
            start = time.process_time()
            candidates[name]()
            if index:
                times[name].append(time.process_time() - start)
    return times


def report(title: str, times: dict[str, list[float]], n_tokens: int, ours: str) -> None:
    print(f"\n{title}\n| candidate | tokens per CPU s | {ours} is faster by |\n|---|---|---|")
    for name, seconds in times.items():
        ratio = statistics.median(
            theirs / mine for theirs, mine in zip(seconds, times[ours], strict=True)
        )
        print(f"| {name} | {n_tokens / statistics.median(seconds):,.0f} | {ratio:.2f} |")


def sae_lens_store(model: Any, hook_name: str, d_in: int) -> ActivationsStore:
    """Their store with just what `get_activations` reads."""
    store = object.__new__(ActivationsStore)
    store.model, store.hook_name, store.hook_head_index, store.d_in = model, hook_name, None, d_in
    store.autocast_lm, store.model_kwargs, store.seqpos_slice, store.device = (
        False,
        {},
        (None,),
        torch.device("cpu"),
    )
    return store


def hooked_transformer(folder: str, hf: Any, tokenizer: Any) -> HookedTransformer:
    """Their default model class, from a local folder and without processing."""
    cfg = loading.get_pretrained_model_config(
        folder, hf_cfg=hf.config.to_dict(), device="cpu", fold_ln=False, default_prepend_bos=False
    )
    state = loading.get_pretrained_state_dict(folder, cfg, hf)
    model = HookedTransformer(cfg, tokenizer, move_to_device=False)
    model.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model


def compare_harvest(folder: str, rounds: int) -> None:
    hook_name = f"blocks.{LAYER}.hook_resid_post"
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    d_in = hf.config.hidden_size
    legacy = sae_lens_store(hooked_transformer(folder, hf, tokenizer), hook_name, d_in)
    module = f"model.layers.{LAYER}"
    proxied = sae_lens_store(HookedProxyLM(hf, tokenizer, hook_names=[module]), module, d_in)
    model = load_model(folder, device="cpu", dtype="float32")
    for n_contexts, context_size in ((16, 128), (2, 1024)):
        harvester = Harvester(model, [hook_name], context_size)
        assert harvester.plain is not None
        ids = torch.randint(
            3,
            hf.config.vocab_size,
            (n_contexts, context_size),
            generator=torch.Generator().manual_seed(0),
        )
        kept = torch.arange(ids.numel()).reshape(ids.shape)[:, 1:].flatten()

        def ours(
            harvester: Harvester = harvester, ids: Tensor = ids, kept: Tensor = kept
        ) -> Tensor:
            return harvester(ids)[hook_name].flatten(0, 1).index_select(0, kept)

        def theirs(store: ActivationsStore, ids: Tensor = ids) -> Tensor:
            return store.get_activations(ids).reshape(-1, d_in)

        reference = theirs(proxied)[kept]
        for rows in (ours(), theirs(legacy)[kept]):
            assert float(((rows - reference).norm(dim=1) / reference.norm(dim=1)).max()) < 1e-3
        candidates: Candidates = {"saescope": ours}
        candidates |= {
            "sae-lens, HookedTransformer (default)": lambda: theirs(legacy),
            "sae-lens, Hugging Face": lambda: theirs(proxied),
        }
        title = (
            f"Harvest, {os.path.basename(folder)} {hook_name}, {n_contexts} contexts of "
            f"{context_size}"
        )
        report(title, interleaved(candidates, rounds), ids.numel(), "saescope")


class Repeated(RowSource):
    """The same rows again and again: a source that costs nothing."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.widths = rows, {"x": rows.shape[1]}
        self.device, self.fingerprint, self.max_rows, self.memory_bytes, self.epoch = (
            rows.device,
            "",
            len(rows),
            0,
            0,
        )

    def next_rows(self) -> dict[str, Tensor]:
        return {"x": self.rows}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


def compare_buffers(
    rounds: int, *, d_in: int = 576, batch_size: int = 4096, n_batches: int = 32
) -> None:
    rows = torch.randn(4096, d_in)

    def endless() -> Iterator[Tensor]:
        while True:
            yield rows

    for buffer_tokens in (2**16, 2**17):
        stores = {
            f"saescope, {dtype}": ActivationStore(
                Repeated(rows),
                StoreConfig(
                    n_tokens=2**40, batch_size=batch_size, buffer_tokens=buffer_tokens, dtype=dtype
                ),
            )
            for dtype in ("bfloat16", "float32")
        }
        streams: dict[str, Iterator[Any]] = stores | {
            "sae-lens": mixing_buffer(buffer_tokens, batch_size, endless(), 0.5)
        }

        def draw(stream: Iterator[Any]) -> Callable[[], Any]:
            return lambda: [len(next(stream)) for _ in range(n_batches)]

        times = interleaved({name: draw(stream) for name, stream in streams.items()}, rounds)
        report(
            f"Mixing buffer of {buffer_tokens} rows of {d_in}",
            times,
            n_batches * batch_size,
            "saescope, bfloat16",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    print(
        f"torch {torch.__version__}, 1 thread, load {os.getloadavg()[0]:.1f}, "
        f"{arguments.rounds} rounds"
    )
    compare_buffers(arguments.rounds)
    compare_harvest(arguments.folder, arguments.rounds)


if __name__ == "__main__":
    main()
