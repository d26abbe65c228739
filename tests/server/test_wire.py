"""What comes in on the wire and is no message: an answer, and the server goes on."""

import io
import json
import subprocess
import sys
from typing import Any

import httpx
import pytest
from mcp.types import JSONRPCError
from tests.server.test_http import ACCEPT, ASK

from saescope_mcp.binding.wire import Lines, id_in, refusal_of

MAX = 1000
PARSE, INVALID = -32700, -32600


def call(argument: str) -> str:
    """A call of a tool, id 7, whose argument is this JSON."""
    params = f'{{"name":"find_saes","arguments":{{"query":{argument},"id":99}}}}'
    return f'{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}'


NO_MESSAGES: dict[str, tuple[bytes, int, int | str | None]] = {
    "half an emoji": (call('"\\ud83d"').encode(), PARSE, 7),
    "the other half": (call('"\\ude00 a"').encode(), PARSE, 7),
    "an integer of 5,000 digits": (call("9" * 5000).encode(), PARSE, 7),
    "10,000 deep": (call("[" * 10_000 + "]" * 10_000).encode(), PARSE, 7),
    "invalid UTF-8": (call('"\xff"').encode("latin-1"), PARSE, 7),
    "UTF-8 of a surrogate": (call('"a"').encode().replace(b'"a"', b'"\xed\xa0\xbd"'), PARSE, 7),
    "torn": (call('"a"')[:-3].encode(), PARSE, 7),
    "no JSON": (b"hello", PARSE, None),
    "a control character": (b'{"jsonrpc":"2.0","id":"a","method":"p\x01ing"}', PARSE, "a"),
    "a batch": (f"[{call('1')}]".encode(), INVALID, None),
    "a number": (b"5", INVALID, None),
    "no method": (b'{"jsonrpc":"2.0","id":"x"}', INVALID, "x"),
    "no version": (b'{"id":3,"method":"ping"}', INVALID, 3),
    "an id that is none": (b'{"jsonrpc":"2.0","id":[1],"method":"ping"}', INVALID, None),
    "a fraction as an id": (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', INVALID, None),
    "the id last": (b'{"params":{"id":1},"a":"\\"id\\":2","method":1,"id":4}', INVALID, 4),
}


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_what_is_no_message_is_refused_with_its_id(name: str) -> None:
    raw, code, ident = NO_MESSAGES[name]
    error = refusal_of(raw + b"\n", 2**20)
    assert error is not None and (error.error.code, error.id) == (code, ident)
    assert json.loads(error.model_dump_json(by_alias=True))["id"] == ident


@pytest.mark.parametrize("argument", ["NaN", "Infinity", "-Infinity", "1e999", '"😀"', "{}"])
def test_what_a_tool_can_refuse_itself_goes_through(argument: str) -> None:
    assert refusal_of(call(argument).encode(), 2**20) is None


def test_the_id_is_the_outermost_one_and_found_in_time() -> None:
    assert id_in(b'{"a":{"id":1},"b":["id",":",2]}') is None
    assert id_in(b'{"id":"a\\u0062","x":') is None
    assert id_in(b'{"id":"abc","x":') == "abc"
    assert id_in(b'"' * 2**20) is None and id_in(b'{"' + b"\\" * 2**20) is None


async def test_long_lines_cost_no_memory_and_the_next_one_is_read() -> None:
    answers: list[JSONRPCError] = []

    async def answer(error: JSONRPCError) -> None:
        answers.append(error)

    long = call('"' + "x" * 10 * MAX + '"')
    exact = call('"' + "x" * (MAX - len(call('""'))) + '"')
    wire = io.BytesIO(f"{long}\n\n{exact[:-1]}\n \r\n{call('1')}\r\n{long}".encode())
    lines = Lines(wire, max_bytes=MAX, answer=answer)
    assert [line.strip() async for line in lines] == [call("1")]
    assert [(a.error.code, a.id) for a in answers] == [(INVALID, 7), (PARSE, 7), (INVALID, 7)]
    assert len(exact) == MAX and "1000 bytes" in answers[0].error.message


async def test_an_answer_is_never_answered() -> None:
    answers: list[JSONRPCError] = []

    async def answer(error: JSONRPCError) -> None:
        answers.append(error)

    wire = io.BytesIO(b'{"jsonrpc":"2.0","id":1.5,"result":{}}\n{"id":null,"error":5}\n')
    assert [line async for line in Lines(wire, max_bytes=MAX, answer=answer)] == []
    assert not answers


@pytest.mark.slow
def test_the_server_answers_every_line_and_goes_on() -> None:
    ready = '{"jsonrpc":"2.0","method":"notifications/initialized"}'
    ping = '{"jsonrpc":"2.0","id":"last","method":"ping"}'
    lines = [json.dumps(ASK).encode(), ready.encode(), *(raw for raw, *_ in NO_MESSAGES.values())]
    with subprocess.Popen(
        [sys.executable, "-m", "saescope_mcp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(b"\n".join([*lines, ping.encode(), b""]))
        server.stdin.flush()
        got: list[dict[str, Any]] = [
            json.loads(server.stdout.readline()) for _ in range(len(NO_MESSAGES) + 2)
        ]
        server.stdin.close()
        assert server.wait(20) == 0
    errors = [(a["error"]["code"], a["id"]) for a in got if "error" in a]
    assert sorted(errors, key=str) == sorted([row[1:] for row in NO_MESSAGES.values()], key=str)
    assert {a["id"] for a in got if "result" in a} == {1, "last"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_MESSAGES)
def test_over_http_too(url: str, name: str) -> None:
    headers = ACCEPT | {"Content-Type": "application/json"}
    raw, code, ident = NO_MESSAGES[name]
    reply = httpx.post(url, content=raw, headers=headers, timeout=30)
    said = reply.json()
    assert reply.status_code == 400 and (said["error"]["code"], said["id"]) == (code, ident)


@pytest.mark.slow
def test_a_body_that_is_too_long_is_refused_over_http(url: str) -> None:
    headers = ACCEPT | {"Content-Type": "application/json"}
    reply = httpx.post(url, content=call('"' + "x" * 2**23 + '"'), headers=headers, timeout=30)
    assert reply.status_code == 413
    assert (reply.json()["error"]["code"], reply.json()["id"]) == (INVALID, 7)
