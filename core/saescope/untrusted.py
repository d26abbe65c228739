"""Text that strangers wrote, before anyone reads it: no control, direction or zero-width
characters, no live markup, capped."""

import re
import unicodedata

MOST_CHARS = 300
MOST_TOKEN_CHARS = 60

_TERMINAL = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor
    # titles and links, which carry an address
    "|(?:\x1b\\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)?"
    "|\x1b."
)
_COMMAND = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|(?:\x1b[]P^_X]|[\x90\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\\\|\x9c)"
    "|\x1b[c78=>DEHMNOZ]"
)
"""Complete ones alone: one that never ends must not take the text after it along."""
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_TAG = re.compile(r"<(?=[A-Za-z/!?])([^<>]*)(>?)")
_SPACE = re.compile(r"\s+")
_OPEN, _CLOSE = "\u2039", "\u203a"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def clean_line(text: str, limit: int = MOST_CHARS) -> str:
    """One line of plain text: tags get single quotation marks for brackets, Markdown links and
    images lose their address."""
    plain = _printable(_SPACE.sub(" ", _TERMINAL.sub("", text[: 20 * limit])))
    plain = _TAG.sub(
        lambda tag: f"{_OPEN}{tag[1]}{_CLOSE if tag[2] else ''}", _LINK.sub(r"\1", plain)
    )
    return _capped(_SPACE.sub(" ", plain).strip(), limit)


def clean_token(text: str, limit: int = MOST_TOKEN_CHARS) -> str:
    """A token or a piece of a text: spaces, line ends and angle brackets stay (`<bos>` is a token);
    at most `limit` characters."""
    return _capped(_printable(_TERMINAL.sub("", text[: 20 * limit])), limit)


def clean_output(text: str) -> str:
    """Text for a terminal, whole: without what a terminal would obey or not show; spaces and line
    ends stay."""
    return text if text.isascii() and text.isprintable() else _printable(_COMMAND.sub("", text))


def is_hidden(char: str) -> bool:
    """Whether it is a control, direction, zero-width, private or unassigned character; line ends
    and tabs are not."""
    return char not in "\n\t" and unicodedata.category(char) in _HIDDEN


def _printable(text: str) -> str:
    return "".join(char for char in text if not is_hidden(char))


def _capped(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
