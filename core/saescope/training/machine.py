"""What this machine has: memory of a device, disk, threads."""

import os
import shutil
import sys
from pathlib import Path

import torch

from saescope.devices import own_memory

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of a container, in the second and the first version."""


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has held on the device so far."""
    if (card := own_memory(device)) is not None:
        return card.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def free_bytes(device: torch.device) -> int:
    """The bytes that may still be taken on the device."""
    if (card := own_memory(device)) is not None:
        idle = card.memory_reserved(device) - card.memory_allocated(device)
        return card.mem_get_info(device)[0] + idle
    return min([_available_bytes(), *_left_in_container()])


def load_average() -> float | None:
    """The load of the last minute for each processor; None on a system that does not say."""
    if sys.platform == "win32":
        return None
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def n_threads() -> int:
    return torch.get_num_threads()


def use_threads(n: int) -> None:
    """The number of a run's first start: sums in another order would make a resumed run differ in
    the last bits."""
    torch.set_num_threads(n)


def free_disk_bytes(folder: Path) -> int:
    """The bytes free on the disk that the folder is on, or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _available_bytes() -> int:
    info = Path("/proc/meminfo")
    if info.is_file():
        lines = dict(line.split(":") for line in info.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    if sys.platform == "win32":
        import ctypes

        status = (ctypes.c_ulonglong * 8)()
        ctypes.cast(status, ctypes.POINTER(ctypes.c_ulong))[0] = ctypes.sizeof(status)
        ctypes.__dict__["windll"].kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status[2])
    return (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    )  # macOS does not tell; half is a careful guess


def _left_in_container() -> list[int]:
    left: list[int] = []
    for limit, used in _CGROUPS:
        texts = [Path(path).read_text().strip() for path in (limit, used) if Path(path).is_file()]
        if len(texts) == 2 and all(text.isdigit() for text in texts):
            left.append(max(0, int(texts[0]) - int(texts[1])))
    return left
