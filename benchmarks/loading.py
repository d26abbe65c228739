"""Time and memory of loading an SAE of 302 MB: saescope against sae-lens, a fresh process each, in
turns; medians.

sae-lens maps the file and reads it when it is first used, saescope reads and checks it at once:
compare "to the first reconstruction". Peaks are of resident memory, mapped pages included, above
what was resident before the load; the weights are counted as they end up.

sae-lens cannot be installed beside saescope: name the Python of an environment that has it.

    python benchmarks/loading.py --peer /path/to/python  # numbers go to docs/log.md, with the date
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 5
D_IN, D_SAE = 768, 49_152
MEASURE = """
import json, re, sys, time
start = time.perf_counter()
{imports}
import torch
torch.set_num_threads(1)
def now(key):
    said = open("/proc/self/status").read()
    return 1024 * int(re.search(key + r":\\s+(\\d+)", said)[1])
imported = time.perf_counter()
open("/proc/self/clear_refs", "w").write("5")
before = now("VmRSS")
began = time.perf_counter()
sae = {load}
seconds = time.perf_counter() - began
peak = now("VmHWM") - before
with torch.no_grad():
    acts = sae.encode(torch.linspace(-1, 1, {d_in}, dtype=sae.W_dec.dtype)[None])
    sae.decode(acts)
used, used_peak = time.perf_counter() - began, now("VmHWM") - before
n_bytes = sum(getattr(sae, name).nbytes for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
fires = int((acts > 0).sum())
said = dict(import_s=imported - start, load_s=seconds, peak=peak / n_bytes,
            used_s=used, used_peak=used_peak / n_bytes)
said |= dict(total=float(acts.double().sum()), n_active=fires)
print(json.dumps(said))
"""
OURS = ("from saescope.load import load_sae", "load_sae({path!r}, device='cpu', dtype={dtype!r})")
THEIRS = ("from sae_lens import SAE", "SAE.load_from_disk({path!r}, device='cpu', dtype={dtype!r})")


def write_sae(folder: Path) -> None:
    """Random directions, small biases, in SAELens's format."""
    import torch

    from saescope.saes import StandardConfig, StandardSAE

    rng = torch.Generator().manual_seed(0)
    cfg = StandardConfig(architecture="standard", d_in=D_IN, d_sae=D_SAE)
    StandardSAE(
        cfg,
        {
            name: 0.05 * torch.randn(shape, generator=rng)
            for name, shape in StandardSAE.shapes(cfg).items()
        },
    ).save(folder)


def measure(python: str, what: tuple[str, str], path: str, dtype: str) -> dict[str, float]:
    """One load in a process of its own."""
    code = MEASURE.format(imports=what[0], load=what[1].format(path=path, dtype=dtype), d_in=D_IN)
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=False, env=env
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(peer: str, path: str, dtype: str) -> None:
    """Both in turns, after one load each that warms the files."""
    pairs = [
        (measure(sys.executable, OURS, path, dtype), measure(peer, THEIRS, path, dtype))
        for _ in range(RUNS + 1)
    ][1:]
    for name, rows in (
        ("saescope", [ours for ours, _ in pairs]),
        ("sae-lens", [theirs for _, theirs in pairs]),
    ):
        middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        spread = (
            f"{min(row['used_s'] for row in rows):.2f} to {max(row['used_s'] for row in rows):.2f}"
        )
        print(
            f"{dtype:9} {name:9} load {middle['load_s']:.2f} s, peak "
            f"{middle['peak']:.2f} x the weights; to the first reconstruction "
            f"{middle['used_s']:.2f} s ({spread}), peak {middle['used_peak']:.2f} x; "
            f"imports {middle['import_s']:.2f} s; "
            f"{middle['n_active']:.0f} features fire, sum {middle['total']:.6g}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", required=True, help="the Python of an environment with sae-lens")
    peer = parser.parse_args().peer
    with tempfile.TemporaryDirectory() as folder:
        write_sae(Path(folder))
        size = (Path(folder) / "sae_weights.safetensors").stat().st_size
        print(
            f"{size / 1e6:.0f} MB, d_in {D_IN}, d_sae {D_SAE}; {RUNS} runs each, in "
            f"turns; load average {os.getloadavg()[0]:.1f}"
        )
        for dtype in ("float32", "bfloat16"):
            compare(peer, folder, dtype)


if __name__ == "__main__":
    main()
