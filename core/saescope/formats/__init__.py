"""On-disk dialects: one file each with `matches(files)`, `peek(folder)` and `read(folder)`, tried in this order."""

from saescope.formats import saelens

DIALECTS = (saelens,)

__all__ = ["DIALECTS"]
