"""Llama Scope on DeepSeek-R1-Distill-Llama-8B: `config.json` and `sae_weights.safetensors`, trained
with a JumpReLU from the start.

Gates as in `llama_scope`. The authors' encoder fires where p_i * ||W_dec,i|| > theta_i, all in the
scale of training, so threshold_i = theta_i / ||W_dec,i||; "saelens" takes theta_i as it is.
"""

import torch
from torch import Tensor

from saescope.formats.dialect import Dialect, folder_with, inside
from saescope.formats.llama_scope import STORED, Norms, config, factor, fold, pick_gate, row_norms
from saescope.formats.recipe import Recipe, Stored, header_of, open_file, unsupported
from saescope.formats.source import FileSource
from saescope.saes import SAEConfig

NAME = "llama_scope_r1_distill"
CONFIG, FILE = "config.json", "sae_weights.safetensors"
MODEL = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
_NORM = "dataset_average_activation_norm."


def _recipe(source: FileSource) -> Recipe:
    settings = source.json(source.at(CONFIG))
    cfg = config(source, settings, (CONFIG, source.at(FILE)), model_name=MODEL, dialect=NAME)
    mode = settings.get("norm_activation", "dataset-wise")
    if mode != "dataset-wise":
        raise unsupported("norm_activation", file=CONFIG, got=mode, allowed=["dataset-wise"])
    upstream = pick_gate(source) == "upstream" and bool(
        settings.get("sparsity_include_decoder_norm", True)
    )

    def fix(tensors: dict[str, Tensor]) -> None:
        threshold = tensors["threshold"].float().exp()
        tensors["threshold"] = (
            threshold / row_norms(tensors["W_dec"]) if upstream else threshold
        ).to(tensors["W_dec"].dtype)
        fold(tensors, _norms(source, cfg))

    stored = STORED | {"threshold": Stored("log_jumprelu_threshold")}
    return Recipe(cfg=cfg, file=source.at(FILE), stored=stored, ignored=[f"{_NORM}*"], fix=fix)


def _norms(source: FileSource, cfg: SAEConfig) -> Norms:
    names = {name for name in header_of(source, source.at(FILE)) if name.startswith(_NORM)}

    def at(hook_name: str, d_model: int) -> float:
        norm = None
        if _NORM + hook_name in names:
            with open_file(source, source.at(FILE)) as weights:
                norm = float(weights.take(_NORM + hook_name, torch.float64))
        return factor(source, norm, d_model, _NORM + hook_name)

    read_norm = at(cfg.metadata.hook_name, cfg.d_in)
    return Norms(
        read_norm, at(cfg.metadata.hook_name_out, cfg.d_out) if cfg.transcoder else read_norm
    )


DIALECT = Dialect(
    name=NAME,
    matches=folder_with(CONFIG, FILE),
    wanted=inside(CONFIG, FILE),
    recipe=_recipe,
)
