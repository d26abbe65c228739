"""Float64 where a device has it: sums and log-probabilities are computed in it, and Apple's GPUs
know none."""

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}
"""Kinds of devices that know no float64."""


def wide_device(device: torch.device) -> torch.device:
    """Where numbers of a device can be float64: there, or on the CPU."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def wide(x: Tensor) -> Tensor:
    """`x` in float64, where `wide_device` says."""
    return x.to(wide_device(x.device)).double()
