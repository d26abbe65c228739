"""The tasks that agents are judged by: the reference of each is good, every bad answer to it is
found out, and with real numbers."""

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from agent_evals import agents
from agent_evals.judge import judge, sentences
from agent_evals.play import desk_of, play, play_reference, play_with_spoilt
from agent_evals.record import calls_of
from agent_evals.task import Number, Step, Task, Words, load_tasks
from agent_evals.transcript import Call, Transcript
from tests.server.workers import Forked, prepare

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.jobs import runs as runs_module

TASKS = load_tasks()
TINY = [task for task in TASKS if task.model == "tiny"]
EMBEDDED = [task for task in TASKS if task.model == "embedded"]


@pytest.fixture(autouse=True)
def forked_workers(monkeypatch: pytest.MonkeyPatch, glass: object) -> None:
    """Jobs start fast; everything heavy is imported before the first task."""
    prepare()
    monkeypatch.setattr(runs_module, "start_worker", Forked())


async def check(task: Task) -> None:
    verdict, spoilt = await play_with_spoilt(task)
    assert not verdict.faults, (verdict.transcript.report, verdict.transcript.calls)
    for bad, faults in spoilt:
        assert bad.fails in {fault.kind for fault in faults}, bad


@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=[pytest.mark.slow] if i % 8 else []) for i, task in enumerate(TINY)],
    ids=lambda task: task.name,
)
async def test_the_reference_of_a_task_is_good_and_its_bad_answers_are_found_out(
    task: Task,
) -> None:
    await check(task)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.model
@pytest.mark.timeout(300)
@pytest.mark.parametrize("task", EMBEDDED, ids=lambda task: task.name)
async def test_the_same_on_the_embedded_model(task: Task) -> None:
    await check(task)


def test_there_are_twenty_tasks_and_each_can_be_failed() -> None:
    assert len(TASKS) >= 20 and len({task.name for task in TASKS}) == len(TASKS)
    assert all(task.spoilt and task.trap for task in TASKS)
    fails = {bad.fails for task in TASKS for bad in task.spoilt}
    assert fails == {"trace", "forbidden", "numbers", "words", "evidence"}


def test_the_tasks_use_every_tool_there_is() -> None:
    called = {tool for task in TASKS for call in [*task.before, *task.calls] for tool in call}
    assert {tool.name for tool in ALL_TOOLS} - called == {
        "describe_feature",  # nothing is asked that it alone can answer
        "compare_prompts",  # a task of circuits may ask for it
        *("claim", "results", "export_report"),  # the ledger is the user's
    }


# The judge itself, on answers that are written out.

TASK = next(task for task in TASKS if task.name == "no-more-than-controls").model_copy(
    update={"trace": [], "words": Words(), "numbers": []}
)


def said(report: str, *calls: Call, **changes: Any) -> list[str]:
    """The kinds of the faults; every number is 0.125 in truth."""
    task = TASK.model_copy(update=changes)
    return [
        fault.kind
        for fault in judge(task, Transcript(list(calls), report), lambda name, arguments: 0.125)
    ]


def call(tool: str = "intervene", evidence: str = "controlled", **arguments: Any) -> Call:
    return Call(tool, arguments, {"evidence": evidence}, is_error=False)


def test_a_causal_word_needs_a_call_that_changed_the_model() -> None:
    assert said("Feature 3 causes it.", call(evidence="observed")) == ["evidence"]
    assert said("Feature 3 causes it.") == ["evidence"]
    assert said("Feature 3 causes it.", call(evidence="controlled")) == []
    assert said("Nothing shows that feature 3 causes it.") == []
    assert said("Feature 3 causes it.", call(evidence="controlled"), evidence="observed") == [
        "evidence"
    ]


def test_a_number_is_looked_for_in_its_own_sentence_and_may_be_rounded_as_written() -> None:
    number = Number(near="drop", truth={"effect": {}}, tolerance=0.0)
    for report, kinds in {
        "The drop is 0.125.": [],
        "The drop is 12.5%.": [],
        "The drop is 0.13.": [],
        "The drop is 0.": ["numbers"],
        "The drop is -0.125.": ["numbers"],
        "The drop is large. In version 0.125 too.": ["numbers"],
        "The drop is 0.5.": ["numbers"],
    }.items():
        assert said(report, numbers=[number]) == kinds, report


def test_sentences_end_at_full_stops_that_are_no_decimal_points() -> None:
    assert sentences("It is 0.5. Then 1.\nEnd") == ["It is 0.5.", "Then 1.", "End"]


def test_too_many_tokens_are_a_fault() -> None:
    assert said("Done.", *[call(text="x" * 300)] * 3, max_tokens=300) == ["tokens"]


def test_a_refused_call_is_no_step_and_an_order_counts() -> None:
    trace = [Step(call="load_sae"), Step(call="intervene", after="load_sae")]
    refused = Call("load_sae", {}, {"code": "NOT_FOUND"}, is_error=True)
    assert said("", call("load_sae"), call(), trace=trace) == []
    assert said("", call(), call("load_sae"), trace=trace) == ["trace"]
    assert said("", refused, call(), trace=trace) == ["trace", "trace"]


# Live agents: a command behind a recorder, and an endpoint. The model in both is one that plays the
# reference.

SCRIPT = """
import json, os, sys
import anyio
from mcp import Client, StdioServerParameters
server = json.load(open(sys.argv[1]))["mcpServers"]["sae"]
async def main():
    started = StdioServerParameters(
        command=server["command"], args=server["args"], env={**os.environ, **server["env"]}
    )
    async with Client(started) as client:
        result = await client.call_tool("find_saes", {"query": "gpt2-small-res-jb", "limit": 1})
        print(len(sys.stdin.read()) > 20, result.structured_content["saes"][0]["release"])
anyio.run(main)
"""


@pytest.mark.slow
async def test_a_command_reaches_the_real_server_and_what_it_saw_is_written_down(
    tmp_path: Path,
) -> None:
    script = tmp_path / "agent.py"
    script.write_text(SCRIPT, encoding="utf-8")
    task = load_tasks(["misspelt-release"])[0]
    async with desk_of(task) as desk:
        transcript = await agents.command(f"{sys.executable} {script} {{config}}")(task, desk)
    assert transcript.report.split() == ["True", "gpt2-small-res-jb"]
    assert [made.tool for made in transcript.calls] == ["find_saes"] and transcript.calls[
        0
    ].arguments["limit"] == 1
    assert not transcript.calls[0].is_error and transcript.calls[0].result["saes"]


class Endpoint(BaseHTTPRequestHandler):
    """A model that asks for one tool and then repeats what it was told."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        last = body["messages"][-1]
        wish = {
            "id": "1",
            "type": "function",
            "function": {
                "name": "find_saes",
                "arguments": '{"query": "gpt2-small-res-jb", "layer": 8}',
            },
        }
        said = (
            {"content": f"It is {last['content'][:2000]}"}
            if last["role"] == "tool"
            else {"content": None, "tool_calls": [wish]}
        )
        reply = json.dumps({"choices": [{"message": {"role": "assistant", **said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


async def test_an_endpoint_gets_skill_and_tools_and_its_calls_are_made(endpoint: str) -> None:
    verdict = await play(load_tasks(["misspelt-release"])[0], agents.endpoint(endpoint, "any"))
    assert not verdict.faults, verdict.transcript
    first = Endpoint.asked[0]
    listed = {tool.name for tool in ALL_TOOLS if tool.group and tool.group.by_default}
    assert {tool["function"]["name"] for tool in first["tools"]} == listed | {"use_tools"}
    assert (
        "Gotchas" in first["messages"][0]["content"]
        and "gpt2-smal-res-jb" in first["messages"][1]["content"]
    )


def test_calls_are_read_from_what_went_over_the_wire(tmp_path: Path) -> None:
    lines = [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "unload", "arguments": {"handle": "x"}},
        },
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "server_status"}},
        {"jsonrpc": "2.0", "id": 2, "result": {"structuredContent": {"summary": "s"}}},
        {
            "jsonrpc": "2.0",
            "id": 1,
            "result": {"structuredContent": {"code": "NOT_LOADED"}, "isError": True},
        },
    ]
    (tmp_path / "trace").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    made = calls_of(tmp_path / "trace")
    assert [(each.tool, each.code) for each in made] == [
        ("server_status", ""),
        ("unload", "NOT_LOADED"),
    ]


async def test_a_task_leaves_the_home_as_it_was(own_home: Path) -> None:
    before = sorted(own_home.iterdir())
    await play(load_tasks(["misspelt-release"])[0], play_reference)
    assert sorted(own_home.iterdir()) == before
