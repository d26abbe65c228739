"""Text of strangers: what stays and what goes."""

import pytest

from saescope.untrusted import clean_line, clean_token

LINES = {
    "plain words, 3 < 4 and x > y": "plain words, 3 < 4 and x > y",
    "two\r\nlines\t and  spaces ": "two lines and spaces",
    "\x1b[31mred\x1b[0m \x1b]8;;http://evil.example\x07link\x1b]8;;\x07": "red link",
    "\x9b31mred": "red",
    "abc\u202edcba\u2066x\u2069": "abcdcbax",
    "zero\u200bwidth\ufeff and \U000e0041tag": "zerowidth and tag",
    "half \ud83d pair": "half pair",
    "<b>bold</b> <img src=x onerror=alert(1)>": "\u2039b\u203abold\u2039/b\u203a "
    "\u2039img src=x onerror=alert(1)\u203a",
    "<scr\u200bipt>": "\u2039script\u203a",
    "open <script src=x": "open \u2039script src=x",
    "![pixel](http://evil.example/?q=1) [words](http://evil.example)": "pixel words",
    "caf\u00e9 \u65e5\u672c \U0001f600": "caf\u00e9 \u65e5\u672c \U0001f600",
    "": "",
}


@pytest.mark.parametrize("text", LINES)
def test_a_line_is_plain_text(text: str) -> None:
    assert clean_line(text) == LINES[text]


def test_a_token_keeps_its_spaces_lines_and_brackets() -> None:
    assert [clean_token(token) for token in (" a", "\n", "<bos>", "<0x0A>", "\u202ex", "\x00")] == [
        " a",
        "\n",
        "<bos>",
        "<0x0A>",
        "x",
        "",
    ]


@pytest.mark.parametrize("length", [299, 300, 301, 10**7])
def test_long_text_is_capped(length: int) -> None:
    line = clean_line("x" * length)
    assert len(line) == min(length, 300) and line.endswith("…") == (length > 300)
