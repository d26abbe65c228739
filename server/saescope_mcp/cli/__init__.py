"""`saescope`: the tools for people and scripts, and the server itself. `serve` takes the short way:
no typer, no rich."""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from saescope.names import WANDB_QUIETED

_YES = {"1", "true", "t", "yes", "y", "on"}
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; exits with the command's status."""
    words = sys.argv[1:] if words is None else words
    quieten()
    if words[:1] == ["serve"]:
        from saescope_mcp.cli.serve import serve

        sys.exit(serve(words[1:]))
    write_whatever()
    try:
        from saescope_mcp.cli.commands import app

        app(args=[*words], prog_name="saescope")
    except Exception as error:
        from saescope_mcp.cli.crash import report_crash

        sys.exit(report_crash(" ".join(["saescope", *words[:1]]), error))


def write_whatever() -> None:
    """A character that the encoding of a terminal or pipe lacks, as on Windows, becomes its code
    instead of an error."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # stderr does so by itself


def quieten() -> None:
    """What other libraries read when they are imported, unless the user has said otherwise."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    if "WANDB_MODE" not in os.environ:
        os.environ |= {"WANDB_MODE": "disabled", WANDB_QUIETED: "1"}
    if os.environ.get("SAESCOPE_OFFLINE", "").lower() in _YES:
        for name in _OFFLINE:  # a second bolt, for what these libraries do of themselves
            os.environ[name] = "1"
