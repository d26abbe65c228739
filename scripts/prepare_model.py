"""Fetch the embedded language model (93 MB, once) if it is not in the cache yet; the tests marked
`model` need it."""

import sys

from saescope.embedded import is_ready
from saescope.errors import SaescopeError

if __name__ == "__main__":
    if is_ready():
        sys.exit()  # before anything heavy is imported
    from saescope.models.prepare import prepare

    try:
        prepare(lambda line: print(line, flush=True))
    except SaescopeError as error:
        sys.exit(
            f"{error} {error.hint}\nThe tests that do not need it: pytest -m 'not "
            "model and not slow and not network and not gpu'"
        )
