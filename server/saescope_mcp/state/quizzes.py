"""Open quizzes, for what shows texts again without a run of the model, and without torch where
there is no quiz."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing

from saescope.database import connect
from saescope.names import home
from saescope_mcp.state.entries import void_quizzes
from saescope_mcp.state.warm import put_aside


def void_open_quizzes(texts: Sequence[str]) -> None:
    """Void the quizzes that show one of these texts. Where none is open, as usual, nothing is
    imported."""
    if _is_any_open():
        with put_aside():
            void_quizzes(texts)


def _is_any_open() -> bool:
    path = home() / "labels.db"
    if not path.is_file():
        return False
    try:
        with closing(connect(path)) as db:
            found = db.execute("SELECT 1 FROM quizzes WHERE answered IS NULL LIMIT 1").fetchone()
    except sqlite3.Error:  # damaged or locked: whoever opens it whole says so
        return True
    return found is not None
