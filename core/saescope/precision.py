"""Float64 where a device has it: sums and log-probabilities are computed in it, and Apple's GPUs
know none."""

import torch
from jaxtyping import Float
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}
"""Kinds of devices that know no float64."""


def wide_device(device: torch.device) -> torch.device:
    """Where numbers of a device can be float64: there, or on the CPU."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def number(value: float, device: torch.device) -> Float[Tensor, ""]:
    """A number on a device, in the best precision that it knows."""
    known = device.type not in WITHOUT_FLOAT64
    return torch.full((), value, dtype=torch.float64 if known else torch.float32, device=device)


def fetched(*numbers: Tensor) -> list[float]:
    """The numbers of several scalars of a device, for which the host waits once."""
    first = number(0.0, numbers[0].device)
    return torch.stack([each.to(first) for each in numbers]).tolist()


def wide(x: Tensor) -> Tensor:
    """`x` in float64, where `wide_device` says."""
    return x.to(wide_device(x.device)).double()
