"""A stretch of text with one of its tokens marked."""

from collections.abc import Sequence

OPEN, CLOSE = "⟦", "⟧"


def marked(
    tokens: Sequence[str], pos: int, *, cut_before: bool = False, cut_after: bool = False
) -> str:
    """The tokens as text, the one at `pos` between ⟦ and ⟧ but for its leading space, and an
    ellipsis where the text goes on."""
    word = tokens[pos]
    space = word[: len(word) - len(word.lstrip())]
    before, after = "".join(tokens[:pos]), "".join(tokens[pos + 1 :])
    text = f"{before}{space}{OPEN}{word[len(space) :]}{CLOSE}{after}"
    return f"{'…' if cut_before else ''}{text}{'…' if cut_after else ''}"
