"""`saescope` alone: what is on this machine, and the commands to try next. Imports no torch."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress

from rich.markup import escape

from saescope import __version__, embedded
from saescope.database import connect
from saescope.names import home
from saescope_mcp.cli.completing import handles, jobs
from saescope_mcp.cli.tables import listed, pairs
from saescope_mcp.cli.terminal import Terminal
from saescope_mcp.cli.typed import program


def show_what_is_here() -> None:
    console = Terminal(soft_wrap=False)
    console.print(f"[bold]saescope {__version__}[/]: inside a language model, by its features.\n")
    known, states = handles(), Counter(run.state for run in jobs())
    console.print("[bold]On this machine[/]")
    console.print(
        pairs(
            {
                "  embedded model": "ready" if embedded.is_ready() else "not fetched yet",
                "  models": listed(_models()),
                "  SAEs": listed(known),
                "  indexes": str(_count_indexes()),
                "  labels": str(_n_labels()),
                "  jobs": ", ".join(f"{n} {state}" for state, n in states.items()) or "none",
            }
        )
    )
    console.print("\n[bold]Next[/]")
    for words, why in next_steps(running=states["running"] > 0):
        console.print(f"  {escape(words)}", style="cyan", soft_wrap=True)
        console.print(f"      [dim]{escape(why)}[/]")


def next_steps(*, running: bool) -> Iterator[tuple[str, str]]:
    saescope = program()
    if running:
        yield f"{saescope} job-status", "how the work is doing that runs now"
    if not embedded.is_ready():
        size = f"{embedded.DOWNLOAD_BYTES // 10**6} MB, once"
        yield f"{saescope} demo", f"the whole story; fetches a small model ({size})"
        yield f"{saescope} doctor", "is everything here that is needed?"
    else:
        text = '"Mary said that she had lost her keys."'
        yield f"{saescope} demo", "the whole story on the small model, in half a minute"
        yield f"{saescope} encode-text --text {text}", "which features fire at each word"
        yield f"{saescope} describe-feature --feature 4432 --open", "a feature's page"
    yield f"{saescope} find-saes --model gemma-2-2b", "published SAEs of another model"
    yield f"{saescope} --help", "all commands; --install-completion: Tab completes them"


def _models() -> list[str]:
    from saescope.catalogue import models_here

    return models_here()


def _count_indexes() -> int:
    return sum(1 for _ in (home() / "indexes").glob("*/*")) if home().is_dir() else 0


def _n_labels() -> int:
    """The number of labels; none where the table is not there or cannot be read now."""
    file = home() / "labels.db"
    with suppress(sqlite3.Error, OSError):
        if file.is_file():
            with closing(connect(file)) as opened:
                return opened.execute("SELECT count(*) FROM labels").fetchone()[0]
    return 0
