"""Write core/saescope/catalogue/data.json.gz from SAELens's registry (pretrained_saes.yaml, MIT).

    python scripts/build_catalogue.py path/to/sae_lens/pretrained_saes.yaml --version 6.54.12
    [--check]

The registry's quirks end here: a whole release pasted into one SAE's entry, integer paths, a
mislabelled model. What the registry does not say stays null. With --check nothing is written; the
exit code says whether the file is up to date.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import yaml

OUT = Path(__file__).parents[1] / "core" / "saescope" / "catalogue" / "data.json.gz"
NATIVE = "sae_lens"
RIGHT_MODEL = {"gemma-scope-9b-it-res": "gemma-2-9b-it"}
"""Releases whose `model` in the registry contradicts their repository."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("registry", type=Path)
    parser.add_argument("--version", required=True, help="of SAELens, e.g. 6.54.12")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    registry = yaml.load(
        args.registry.read_text(encoding="utf-8"),
        Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
    )
    releases = [release(name, said) for name, said in registry.items()]
    document = {
        "source": f"sae-lens {args.version}, pretrained_saes.yaml (MIT)",
        "releases": releases,
    }
    content = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    n_saes = sum(len(entry["saes"]) for entry in releases)
    if args.check:
        same = OUT.is_file() and gzip.decompress(OUT.read_bytes()) == content
        print(
            "up to date" if same else f"{OUT.name} differs from the registry: run without --check"
        )
        raise SystemExit(not same)
    OUT.write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
    print(f"{len(releases)} releases, {n_saes} SAEs, {OUT.stat().st_size} bytes")


def release(name: str, said: dict[str, Any]) -> dict[str, Any]:
    """One release; each SAE as [id, path (0: as id), l0, explained variance, Neuronpedia id, norm
    scaling factor], trailing nulls cut."""
    return {
        "name": name,
        "dialect": said["conversion_func"] or NATIVE,
        "model": RIGHT_MODEL.get(name, said["model"]),
        "repo_id": said["repo_id"],
        "known": said.get("config_overrides") or {},
        "saes": [row(entry) for entry in said["saes"]],
    }


def row(entry: dict[str, Any]) -> list[Any]:
    # Only these keys are read: in gpt2-small-res_scefr-ajt an entry also holds a copy of the whole
    # release.
    sae_id, path = str(entry["id"]), str(entry["path"])
    cells = [
        sae_id,
        0 if path == sae_id else path,
        entry.get("l0"),
        entry.get("variance_explained"),
        entry.get("neuronpedia"),
        entry.get("norm_scaling_factor"),
    ]
    while cells[-1] is None:
        cells.pop()
    return cells


if __name__ == "__main__":
    main()
