"""Which device and which dtype "auto" means here, and how fast a device computes."""

import time
from types import ModuleType

import torch

from saescope.errors import ArgumentError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

MEASURE_S = 0.1
_SIDE = 1024


def available_devices() -> list[str]:
    """The CPU, and every accelerator that torch finds here: `cuda:0`, `mps`, `xpu:0`."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return ["cpu"]
    if kind.type == "mps":
        return ["cpu", "mps"]
    return ["cpu", *(f"{kind.type}:{i}" for i in range(torch.accelerator.device_count()))]


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first GPU, else the CPU.

    Raises:
        ArgumentError: this machine does not have it.
    """
    there = available_devices()
    chosen = next((d for d in there if d != "cpu"), "cpu") if name == "auto" else name
    if chosen not in there and f"{chosen}:0" not in there:
        raise ArgumentError(
            f"Device {name!r} is not available here.",
            code="DEVICE_UNAVAILABLE",
            field="device",
            got=name,
            allowed=["auto", *there],
            hint='Use device="auto".',
        )
    return torch.device(chosen)


def pick_dtype(name: str, device: torch.device, stored: torch.dtype) -> torch.dtype:
    """The dtype of that name; "auto" is float32 on a CPU and the stored dtype on a GPU.

    Raises:
        ArgumentError: no such dtype.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else stored
    if name not in DTYPES:
        raise ArgumentError(
            f"dtype {name!r} is unknown.",
            code="INVALID_CHOICE",
            field="dtype",
            got=name,
            allowed=["auto", *DTYPES],
        )
    return DTYPES[name]


def own_memory(device: torch.device) -> ModuleType | None:
    """What torch knows of the memory of an accelerator (`torch.cuda` and its like); None where the
    device computes in the machine's own: CPUs and Apple's GPUs."""
    return None if device.type in ("cpu", "mps") else torch.get_device_module(device)


def operations_per_s(device: torch.device) -> float:
    """Multiplications and additions a second in a float32 matrix product, tried for MEASURE_S."""
    square = torch.ones(_SIDE, _SIDE, device=device)
    n, started = 0, time.monotonic()
    while n < 2 or time.monotonic() - started < MEASURE_S:
        (square @ square)[0, 0].item()
        started = time.monotonic() if n == 0 else started  # the first one warms up
        n += 1
    return (n - 1) * 2 * _SIDE**3 / (time.monotonic() - started)
