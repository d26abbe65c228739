"""The checks of documents can fail: what is wrong in a page is found."""

import ast
import re

import pytest
from pydantic import ValidationError
from tests.docs.pages import arguments_of, pieces_of
from tests.docs.test_calls import TOOLS, look_up_release, look_up_words, validate
from tests.docs.test_python import check_names

from saescope.errors import NotFoundError, SaescopeError

PAGE = """Call `load_sae()` or `load_sae(release="owner/name")`. <!-- check: schema -->
Then `saescope doctor`, or `ss.load_model("gpt2")`.
<!-- check: schema -->
```text
train_sae(hook_name="x", dry_run=true)
find_saes(
    model="gpt2", layer=8)
```
```
make demo    # a comment
saescope top-features \\
  --text "a # b"
```
```python
import saescope as ss
```
```text
This is output(s), not a call.
```
"""


def test_every_kind_of_piece_is_found_with_its_line_and_its_marker() -> None:
    found = [
        (piece.line, piece.kind, piece.check, piece.code) for piece in pieces_of("page.md", PAGE)
    ]
    assert found == [
        (1, "call", "schema", "load_sae()"),
        (1, "call", "schema", 'load_sae(release="owner/name")'),
        (2, "command", "run", "saescope doctor"),
        (2, "library", "run", 'ss.load_model("gpt2")'),
        (5, "call", "schema", "train_sae(hook_name='x', dry_run=true)"),
        (6, "call", "schema", "find_saes(model='gpt2', layer=8)"),
        (10, "command", "run", "make demo"),
        (11, "command", "run", 'saescope top-features   --text "a # b"'),
        (15, "python", "run", "import saescope as ss\n"),
    ]


def test_a_call_is_read_with_the_words_of_json() -> None:
    assert arguments_of('f(a=true, b=[{"c": false}], d=-1)') == (
        "f",
        {"a": True, "b": [{"c": False}], "d": -1},
    )
    with pytest.raises(AssertionError, match="by name"):
        arguments_of("f(1)")


@pytest.mark.parametrize(
    "call",
    [
        'load_sae(relase="x")',
        'train_sae(hook_name="x", options=["target_lo=3"])',
        'train_sae(hook_name="x", options=["revival=ghost"])',
        'top_features(sae="x")',
    ],
)
def test_a_wrong_argument_is_found(call: str) -> None:
    name, arguments = arguments_of(call)
    with pytest.raises((ValidationError, SaescopeError)):
        validate(TOOLS[name], arguments)


def test_a_release_that_nobody_published_is_found() -> None:
    look_up_release({"release": "gpt2-small-res-jb", "sae_id": "blocks.8.hook_resid_pre"})
    with pytest.raises(SaescopeError, match="gemma-2b-res-jb"):
        look_up_release({"release": "gemma-2b-res", "sae_id": "blocks.12.hook_resid_post"})


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ss.load_modle()", AssertionError),
        ("ss.load_sae(realese='x')", AssertionError),
        ("ss.load_sae(release='gemma-2b-res', sae_id='x')", NotFoundError),
    ],
)
def test_a_wrong_name_of_the_library_is_found(code: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        check_names(ast.parse(code), "page.md:1", releases=True)


@pytest.mark.parametrize(
    "command",
    ["make dmeo", "python scripts/gone.py", "frobnicate now", "git clone saescope/saescopes"],
)
def test_a_command_that_leads_nowhere_is_found(command: str) -> None:
    piece = pieces_of("page.md", f"```\n{command}\n```\n")[0]
    with pytest.raises(AssertionError):
        look_up_words(re.split(r"\s+", piece.code), piece)
