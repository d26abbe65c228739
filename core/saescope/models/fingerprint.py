"""Which weights a model has."""

import hashlib

from saescope.models.language_model import LanguageModel

N_SAMPLES = 4096
"""Entries of each parameter that enter the fingerprint."""


def model_fingerprint(model: LanguageModel) -> str:
    """Changes when the weights do: name, revision, and a sample of every parameter."""
    digest = hashlib.sha256(f"{model.name} {model.revision} {model.dtype}".encode())
    for name, parameter in model.bridge.original_model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // N_SAMPLES)].float().cpu().contiguous()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()
