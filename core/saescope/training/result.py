"""The SAE that a run ends with: architecture classes around the trained parameters, scaling and
decoder norms folded in."""

from typing import Any

import torch
from torch import Tensor

from saescope.errors import NumericError
from saescope.finite import all_finite
from saescope.saes import ARCHITECTURES, SAE, SAEMetadata
from saescope.training.config import TrainConfig
from saescope.training.objective import Params
from saescope.training.scaling import Scaling, fold

_PREPEND = {"auto": None, "true": True, "false": False}
_SEPARATOR: dict[str, dict[str, str | None]] = {
    "auto": {},
    "none": {"sequence_separator_token": None},
    **{token: {"sequence_separator_token": token} for token in ("bos", "eos")},
}
"""The separators of documents in sae-lens's words."""


def finished_sae(
    cfg: TrainConfig, params: Params, scaling: Scaling, *, threshold: float = 0.0
) -> SAE:
    """`threshold` is what BatchTopK and Matryoshka SAEs fire above, in the unit that they rank in.

    Raises:
        NumericError: the weights are not finite.
    """
    bad = [name for name, tensor in params.items() if not bool(all_finite(tensor))]
    if bad:
        raise NumericError(
            f"Training diverged: {', '.join(bad)} are not finite.",
            hint="Lower lr, or resume from an older checkpoint.",
        )
    renamed = {"encoder": "W_enc", "decoder": "W_dec"}
    tensors = {
        renamed.get(name, name): tensor.T if name == "encoder" else tensor
        for name, tensor in params.items()
    }
    if cfg.recipe.has_level:
        tensors["threshold"] = torch.full_like(params["b_enc"], threshold)
    return fold(_unscaled(cfg, tensors), scaling)


def _unscaled(cfg: TrainConfig, tensors: dict[str, Tensor]) -> SAE:
    config_class, sae_class = ARCHITECTURES[cfg.architecture]
    knobs: dict[str, Any] = {}
    if cfg.recipe.ranks:
        knobs = {
            "k": int(cfg.k) if cfg.recipe.whole_k else float(cfg.k),
            "rescale_acts_by_decoder_norm": cfg.rescale_acts_by_decoder_norm,
        }
    if cfg.recipe.nested:
        knobs["matryoshka_widths"] = cfg.chosen.matryoshka_widths
    config = config_class(
        architecture=cfg.architecture,
        d_in=cfg.d_in,
        d_sae=cfg.d_sae,
        d_out=cfg.chosen.d_out,
        apply_b_dec_to_input=cfg.objective.apply_b_dec_to_input,
        normalize_activations=cfg.normalize_activations,
        transcoder=cfg.transcoder,
        skip=cfg.skip,
        metadata=_metadata(cfg),
        **knobs,
    )
    sae = sae_class(config, tensors)
    return sae.fold_W_dec_norm() if knobs and cfg.rescale_acts_by_decoder_norm else sae


def _metadata(cfg: TrainConfig) -> SAEMetadata:
    return SAEMetadata(
        model_name=cfg.model,
        hook_name=cfg.hook_name,
        hook_name_out=cfg.hook_name_out,
        prepend_bos=_PREPEND[cfg.prepend_bos],
        context_size=cfg.context_size,
        raw={
            "training_architecture": cfg.architecture,
            "dataset_path": cfg.dataset,
            "training_tokens": cfg.training_tokens,
            "seed": cfg.seed,
            "disable_concat_sequences": not cfg.join_documents,
        }
        | _SEPARATOR[cfg.document_separator],
    )
