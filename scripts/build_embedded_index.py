"""The index of the embedded SAE that ships with saescope, as one small file beside the SAE.

    python scripts/build_embedded_index.py TEXT... [--n-tokens 1000000] [--work FOLDER]

TEXT: public-domain text, files or folders (what may be shipped: passages of it are in the index).
Without any: the packaged excerpt. With --work a run that was cut off goes on. Run it again whenever
the embedded SAE changes: an index of other weights is never used.
"""

import argparse
import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import saescope as ss
from saescope.activations import EMBEDDED, Dataset, open_dataset
from saescope.features.index import FeatureIndex, IndexConfig, IndexProgress, IndexRun
from saescope.features.index.store import HASH_CHARS, PACKED

MOST_BYTES = 5_000_000
SMALL: dict[str, Any] = {"n_top": 5, "n_range": 1, "n_quiz": 1, "sample_tokens": 2**14}
"""What keeps the file small: fewer places and a smaller sample than by default."""


def joined(names: Sequence[str]) -> Dataset:
    """Several texts as one, under a name that says what they are."""
    parts = [open_dataset(name) for name in names or [EMBEDDED]]
    if len(parts) == 1 and not names:
        return parts[0]
    digest = hashlib.sha256(" ".join(part.fingerprint for part in parts).encode()).hexdigest()
    return Dataset(
        "public-domain text",
        digest,
        lambda: (document for part in parts for document in part.read()),
    )


def pack(index: FeatureIndex, file: Path = PACKED) -> None:
    """An index as one small file, to ship it."""
    with zipfile.ZipFile(file, "w", compression=zipfile.ZIP_LZMA) as archive:
        archive.comment = f"{index.manifest.weights_hash[:HASH_CHARS]}/{index.folder.name}".encode()
        for path in sorted(index.folder.iterdir()):
            archive.write(path, path.name)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", nargs="*")
    parser.add_argument("--n-tokens", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=PACKED)
    arguments = parser.parse_args()
    model, sae = ss.load_model(device="cpu"), ss.load_sae(device="cpu")
    cfg = IndexConfig(n_tokens=arguments.n_tokens, **SMALL)

    def report(at: IndexProgress) -> None:
        eta = f", {at.eta_s / 60:.0f} min to go" if at.eta_s else ""
        print(f"\r{at.n_tokens:,} of {at.n_wanted:,} tokens{eta}   ", end="", file=sys.stderr)

    with tempfile.TemporaryDirectory() as root:
        run = IndexRun(
            model, [sae], joined(arguments.text), cfg, folder=arguments.work, root=Path(root)
        )
        run.go(report=report)
        index = run.indexes()[0]
        silent = int((index.maxima == 0).sum())
        pack(index, arguments.out)
    size = arguments.out.stat().st_size
    print(
        f"\n{index.manifest.n_tokens:,} tokens, {silent} of {sae.cfg.d_sae} features "
        f"never fired, {size / 1e6:.2f} MB: {arguments.out.name}"
    )
    return int(size > MOST_BYTES)


if __name__ == "__main__":
    raise SystemExit(main())
