"""Write tests/data/neuronpedia: an export made by Neuronpedia's own code.

Needs a checkout of github.com/hijohnnylin/neuronpedia (Apache-2.0) and an environment with orjson,
typer and python-dotenv: `python scripts/make_neuronpedia_references.py CHECKOUT`. Features come
from its converter of SAEDashboard's output, rows of explanations from the columns of its exporter.
The texts are ours.
"""

import ast
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODEL, SOURCE = "gpt2-small", "8-planted-res"
HERE = Path(__file__).parents[1] / "tests" / "data" / "neuronpedia"
LABELS = {3: ["words for rulers", "the Queen of Hearts"], 7: ["doors and ways in"]}


def feature(index: int) -> dict[str, Any]:
    """A feature as SAEDashboard writes it, with numbers that tell each field from the others."""
    texts = [["The", " Queen", " of", " Hearts"], ["Alice", " saw", " a", " door"]]
    kept = [
        {
            "bin_min": -1 if n == 0 else 1.5,
            "bin_max": 4.25 if n == 0 else 2.5,
            "bin_contains": -1 if n == 0 else 0.125,
            "tokens": tokens,
            "values": [0.0, index + 0.5 - n, 0.25, 0.0],
            "qualifying_token_index": 1,
        }
        for n, tokens in enumerate(texts)
    ]
    empty = ("neuron_alignment", "correlated_neurons", "correlated_features")
    parts = ("indices", "values", "pearson", "l1")
    return {
        "feature_index": index,
        "activations": kept,
        **{f"{name}_{part}": [] for name in empty for part in parts},
        "neg_str": [" cat", " mat"],
        "neg_values": [-0.75, -0.5],
        "pos_str": [" King", " Queen", " crown"],
        "pos_values": [1.5, 1.25, 0.5],
        "frac_nonzero": 0.015625,
        "freq_hist_data_bar_heights": [12, 4, 1],
        "freq_hist_data_bar_values": [0.5, 1.5, 2.5],
        "logits_hist_data_bar_heights": [5, 90, 5],
        "logits_hist_data_bar_values": [-1.0, 0.0, 1.0],
        "decoder_weights_dist": [],
        "vector": [0.5, -0.25, 0.125],
    }


def columns(exporter: Path, table: str) -> list[str]:
    """The columns that the exporter writes of a table, read from its source."""
    for call in ast.walk(ast.parse(exporter.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "write_batch_to_jsonl":
            name = call.args[0]
            if isinstance(name, ast.Constant) and name.value == table:
                return ast.literal_eval(call.args[1])
    raise SystemExit(f"{exporter} writes no {table}.")


def explanations(exporter: Path) -> str:
    """Rows as the exporter prints them."""
    known = {"modelId": MODEL, "layer": SOURCE, "authorId": "author", "typeName": "np_max-act"}
    rows: list[dict[str, Any]] = []
    for index, texts in LABELS.items():
        for text in texts:
            said = {"id": f"e{len(rows)}", "index": str(index), "description": text}
            row = {**known, **said, "explanationModelName": "gpt-4o-mini"}
            rows.append({name: row.get(name) for name in columns(exporter, "Explanation")})
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def main() -> None:
    tools = Path(sys.argv[1]).resolve() / "utils" / "neuronpedia-utils"
    scripts = tools / "neuronpedia_utils"
    options = {
        "creator-name": "saescope",
        "release-id": "planted",
        "release-title": "Planted",
        "url": "https://example.org",
        "model-name": MODEL,
        "neuronpedia-source-set-id": "planted-res",
        "neuronpedia-source-set-description": "Residual stream",
        "hf-weights-repo-id": "saescope/planted",
        "hf-weights-path": "layer_8/weights.safetensors",
        "hook-point": "hook_resid_pre",
        "layer-num": "8",
        "prompts-huggingface-dataset-path": "saescope/alice",
        "n-prompts-total": "64",
        "n-tokens-in-prompt": "4",
    }
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "dashboards").mkdir()
        batch = {"model_id": MODEL, "layer": 8, "sae_set": "planted-res", "sae_id_suffix": None}
        batch["features"] = [feature(3), feature(7)]
        (work / "dashboards" / "batch-0.json").write_text(json.dumps(batch))
        subprocess.run(
            [
                sys.executable,
                str(scripts / "convert-saedashboard-to-neuronpedia-export.py"),
                f"--saedashboard-output-dir={work / 'dashboards'}",
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            cwd=work,
            check=True,
            stdout=subprocess.DEVNULL,
            input=b"n\n",  # whether to zero the token that begins a text: asked where not said
            env={**os.environ, "PYTHONPATH": str(tools), "DEFAULT_CREATOR_ID": "author"},
        )
        made = work / "exports" / MODEL / SOURCE
        (made / "explanations").mkdir()
        packed = gzip.compress(explanations(scripts / "export-data.py").encode(), mtime=0)
        (made / "explanations" / "batch-0.jsonl.gz").write_bytes(packed)
        shutil.rmtree(HERE, ignore_errors=True)
        shutil.copytree(work / "exports", HERE)
    tables = {
        name: columns(scripts / "export-data.py", name)
        for name in ("Neuron", "Explanation", "Activation")
    }
    (HERE / "columns.json").write_text(json.dumps(tables, indent=1) + "\n")


main()
