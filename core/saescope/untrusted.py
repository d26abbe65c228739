"""Text that strangers wrote, before anyone reads it: no control, direction or zero-width characters, no live markup, capped."""

import re
import unicodedata

MOST_CHARS = 300
MOST_TOKEN_CHARS = 60

_TERMINAL = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor
    "|(?:\x1b\\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)?"  # titles and links, which carry an address
    "|\x1b."
)
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_TAG = re.compile(r"<(?=[A-Za-z/!?])([^<>]*)(>?)")
_SPACE = re.compile(r"\s+")
_OPEN, _CLOSE = "\u2039", "\u203a"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def clean_line(text: str, limit: int = MOST_CHARS) -> str:
    """One line of plain text: tags get single quotation marks for brackets, Markdown links and images lose their address."""
    plain = _printable(_SPACE.sub(" ", _TERMINAL.sub("", text[: 20 * limit])))
    plain = _TAG.sub(
        lambda tag: f"{_OPEN}{tag[1]}{_CLOSE if tag[2] else ''}", _LINK.sub(r"\1", plain)
    )
    return _capped(_SPACE.sub(" ", plain).strip(), limit)


def clean_token(text: str, limit: int = MOST_TOKEN_CHARS) -> str:
    """A token or a piece of a text: spaces, line ends and angle brackets stay (`<bos>` is a token); at most `limit` characters."""
    return _capped(_printable(_TERMINAL.sub("", text[: 20 * limit])), limit)


def _printable(text: str) -> str:
    return "".join(
        char for char in text if char in "\n\t" or unicodedata.category(char) not in _HIDDEN
    )


def _capped(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
