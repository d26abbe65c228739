"""Architectures: one file each, found by name in `ARCHITECTURES`."""

from saescope.saes.base import SAE, Decoders, InputScale
from saescope.saes.batchtopk import BatchTopKConfig, BatchTopKSAE, MatryoshkaConfig, MatryoshkaSAE
from saescope.saes.config import SAEConfig, SAEMetadata
from saescope.saes.gated import GatedConfig, GatedSAE
from saescope.saes.groupmax import GroupMaxConfig, GroupMaxSAE
from saescope.saes.jumprelu import JumpReLUConfig, JumpReLUSAE
from saescope.saes.standard import StandardConfig, StandardSAE
from saescope.saes.temporal import TemporalConfig, TemporalSAE
from saescope.saes.topk import TopKConfig, TopKSAE

ARCHITECTURES: dict[str, tuple[type[SAEConfig], type[SAE]]] = {
    "standard": (StandardConfig, StandardSAE),
    "gated": (GatedConfig, GatedSAE),
    "topk": (TopKConfig, TopKSAE),
    "batchtopk": (BatchTopKConfig, BatchTopKSAE),
    "matryoshka_batchtopk": (MatryoshkaConfig, MatryoshkaSAE),
    "jumprelu": (JumpReLUConfig, JumpReLUSAE),
    "groupmax": (GroupMaxConfig, GroupMaxSAE),
    "temporal": (TemporalConfig, TemporalSAE),
}

__all__ = [
    "ARCHITECTURES",
    "SAE",
    "BatchTopKConfig",
    "BatchTopKSAE",
    "Decoders",
    "GatedConfig",
    "GatedSAE",
    "GroupMaxConfig",
    "GroupMaxSAE",
    "InputScale",
    "JumpReLUConfig",
    "JumpReLUSAE",
    "MatryoshkaConfig",
    "MatryoshkaSAE",
    "SAEConfig",
    "SAEMetadata",
    "StandardConfig",
    "StandardSAE",
    "TemporalConfig",
    "TemporalSAE",
    "TopKConfig",
    "TopKSAE",
]
