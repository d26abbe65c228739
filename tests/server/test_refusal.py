import logging
from pathlib import Path

import pytest
from mcp.types import ToolAnnotations

import saescope
from saescope.errors import SaescopeError
from saescope_mcp.binding.error_document import refusal_text
from saescope_mcp.replies import Tool, refusal
from saescope_mcp.schemas.common import Reply, Request
from saescope_mcp.state import AppState


async def crash(state: AppState, request: Request) -> Reply:
    """Crash."""
    raise ZeroDivisionError("secret path /home/somebody")


async def leave(state: AppState, request: Request) -> Reply:
    """Leave."""
    raise SystemExit(3)


async def test_a_crash_becomes_internal_with_a_log_id_and_no_detail(
    state: AppState, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="saescope"):
        outcome = await Tool(crash, Request, ToolAnnotations()).call(state, {})
    assert outcome.document["code"] == "INTERNAL"
    assert "somebody" not in outcome.text and "Traceback" not in outcome.text
    log_id = outcome.document["message"].split("log id ")[1].removesuffix(".")
    assert log_id in caplog.text and "ZeroDivisionError: secret path" in caplog.text


async def test_a_tool_that_exits_does_not_take_the_server_along(state: AppState) -> None:
    assert (await Tool(leave, Request, ToolAnnotations()).call(state, {})).document[
        "code"
    ] == "INTERNAL"


def test_a_core_error_keeps_its_code_and_next_step() -> None:
    error = SaescopeError(
        "k must be positive.", code="K_WRONG", field="k", got=0, allowed="1..5", hint="Use k=1."
    )
    assert refusal("t", error) == {
        "code": "K_WRONG",
        "message": "k must be positive.",
        "field": "k",
        "got": "0",
        "allowed": "1..5",
        "hint": "Use k=1.",
    }
    assert (
        refusal_text(refusal("t", error))
        == "K_WRONG: k must be positive (got 0; allowed 1..5). Next: Use k=1."
    )


def test_every_error_has_a_next_step() -> None:
    assert (
        refusal("t", SaescopeError("It is broken.", field="path"))["hint"]
        == "Correct path and call again."
    )


def test_secrets_and_control_characters_do_not_leave() -> None:
    said = refusal(
        "t", SaescopeError("with hf_abcdefghijklmnopqrstuv and \x1b[31m?Signature=abc&x")
    )
    assert said["message"] == "with [secret] and  [31m?[secret]&x"


def test_a_file_of_the_caller_that_vanished_is_named_and_one_of_ours_is_our_fault(
    tmp_path: Path, own_home: Path
) -> None:
    def missing(file: Path) -> dict[str, str]:
        with pytest.raises(OSError, match=file.name) as caught:
            file.open()
        return refusal("load_sae", caught.value)

    said = missing(tmp_path / "cfg.json")
    assert said["code"] == "FILE_READ_ERROR" and "'cfg.json'" in said["message"]
    assert str(tmp_path) not in said["message"]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert missing(tmp_path / "loop")["code"] == "FILE_READ_ERROR"
    assert missing(own_home / "handles.json")["code"] == "INTERNAL"
    package = Path(next(iter(saescope.__path__)))
    assert missing(package / "data that is not there")["code"] == "INTERNAL"
