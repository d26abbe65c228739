"""Regular expressions that strangers write: checked before use, and stopped where they take too
long."""

import time

import regex

from saescope.cancel import stop_if_cancelled
from saescope.errors import ArgumentError

MOST_CHARS = 500
TEXT_S, CALL_S = 2.0, 20.0
"""CPU seconds that a pattern may search one text, and all texts of a call."""
_RECURSION = regex.compile(r"(?<!\\)(?:\\\\)*\(\?(?:R|&|P>|[+-]?\d)")
"""A group that calls itself needs memory without bound."""


class Pattern:
    """A regular expression with the time that its searches may still take."""

    def __init__(self, text: str) -> None:
        """Raises: ArgumentError: INVALID_PATTERN."""
        if not 0 < len(text) <= MOST_CHARS:
            raise _invalid(text, f"has {len(text)} characters")
        if _RECURSION.search(text):
            raise _invalid(text, "calls a group from within the pattern")
        try:
            self._compiled = regex.compile(text)
        except (regex.error, RecursionError, OverflowError, ValueError, KeyError) as error:
            raise _invalid(text, f"is no regular expression: {error}") from None
        self.text = text
        self._left_s = CALL_S

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where it matches at least one character, first and one after the last.

        Raises:
            ArgumentError: PATTERN_TOO_SLOW.
        """
        stop_if_cancelled()
        started = time.process_time()
        try:
            # `concurrent` lets other threads run meanwhile
            found = self._compiled.finditer(
                text, timeout=max(0.0, min(TEXT_S, self._left_s)), concurrent=True
            )
            return [match.span() for match in found if match.end() > match.start()]
        except (TimeoutError, MemoryError):
            raise self._too_slow() from None
        finally:
            self._left_s -= time.process_time() - started

    def _too_slow(self) -> ArgumentError:
        return ArgumentError(
            f"The pattern takes more than {TEXT_S:g} s on one text, or {CALL_S:g} s on all.",
            code="PATTERN_TOO_SLOW",
            field="pattern",
            got=self.text,
            allowed="a pattern without nested repeats such as (a+)+",
            hint="Write it without a repeat inside a repeat, or read fewer tokens.",
        )


def _invalid(text: str, why: str) -> ArgumentError:
    return ArgumentError(
        f"The pattern {why}.",
        code="INVALID_PATTERN",
        field="pattern",
        got=text[:80],
        allowed=f"a regular expression as Python's re has them, 1..{MOST_CHARS} characters",
        hint=r'For words: pattern="\\b(she|her)\\b"; put a backslash before . ( ) [ ] * + ? | '
        "where they are meant as such.",
    )
