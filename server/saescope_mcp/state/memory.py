"""How much memory there is, and whether one more model fits into our share of it."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Room(NamedTuple):
    """Bytes of one device: what there is, what we may fill, what we fill."""

    total: int
    budget: int
    used: int

    @property
    def free(self) -> int:
        return max(0, self.budget - self.used)


def total_bytes(device: str) -> int:
    """Memory of the machine (or its container), or of an accelerator that has its own."""
    if device != "cpu":
        import torch

        from saescope.devices import own_memory

        if (card := own_memory(torch.device(device))) is not None:
            return card.mem_get_info(device)[1]
    return min([_ram_bytes(), *_container_limits()])


def _ram_bytes() -> int:
    if sys.platform == "win32":
        return _windows_ram_bytes()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _windows_ram_bytes() -> int:
    import ctypes

    status = (ctypes.c_ulonglong * 8)()
    ctypes.cast(status, ctypes.POINTER(ctypes.c_ulong))[0] = ctypes.sizeof(status)
    ctypes.__dict__["windll"].kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status[1])


def _container_limits() -> list[int]:
    texts = [path.read_text().strip() for path in map(Path, _CGROUP_LIMITS) if path.is_file()]
    return [int(text) for text in texts if text.isdigit()]
