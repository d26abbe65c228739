"""Live agents: any command that takes a prompt and an MCP configuration, and any endpoint that
speaks OpenAI's chat protocol."""

import json
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
import httpx
from mcp import Client

from agent_evals.play import Desk, Player
from agent_evals.record import calls_of
from agent_evals.task import Task
from agent_evals.transcript import Call, Transcript
from saescope_mcp.app import INSTRUCTIONS, build_server

ROOT = Path(__file__).parents[1]
CLAUDE = "claude -p --mcp-config {config} --strict-mcp-config --allowedTools mcp__sae"
MOST_TURNS = 30


def command(line: str, *, timeout_s: float = 900) -> Player:
    """An agent that is a command: {config} stands for an MCP configuration file, the prompt is its
    stdin, the answer its stdout."""

    async def play(task: Task, desk: Desk) -> Transcript:
        with tempfile.TemporaryDirectory() as folder:
            trace, config = Path(folder) / "trace.jsonl", Path(folder) / "mcp.json"
            config.write_text(
                json.dumps({"mcpServers": {"sae": _server(trace, desk)}}), encoding="utf-8"
            )
            words = [word.replace("{config}", str(config)) for word in shlex.split(line)]
            with anyio.fail_after(timeout_s):
                done = await anyio.run_process(
                    words, input=desk.prompt.encode(), check=False, cwd=folder, stderr=None
                )
            return Transcript(calls_of(trace), done.stdout.decode("utf-8", "replace"))

    return play


def _server(trace: Path, desk: Desk) -> dict[str, Any]:
    """The real server behind a recorder, in the task's own home."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "core"), str(ROOT / "server")])
    arguments = ["-m", "agent_evals.record", str(trace), sys.executable, "-m", "saescope_mcp"]
    return {
        "command": sys.executable,
        "args": arguments,
        "env": {**desk.environment, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
    }


def endpoint(url: str, model: str, key: str = "", *, skill: bool = True) -> Player:
    """A model behind `url`/chat/completions, which gets the server's instructions, the skill page
    and the tools."""
    system = INSTRUCTIONS + (
        "\n\n" + (ROOT / "SKILL.md").read_text(encoding="utf-8") if skill else ""
    )

    async def play(task: Task, desk: Desk) -> Transcript:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with (
            Client(build_server(desk.settings)) as server,
            httpx.AsyncClient(headers=headers, timeout=300) as web,
        ):
            tools = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": tool.input_schema,
                    },
                }
                for tool in (await server.list_tools()).tools
            ]
            messages: list[dict[str, Any]] = [
                {"role": "system", "content": system},
                {"role": "user", "content": desk.prompt},
            ]
            transcript = Transcript()
            for _ in range(MOST_TURNS):
                reply = await web.post(
                    f"{url.rstrip('/')}/chat/completions",
                    json={"model": model, "messages": messages, "tools": tools},
                )
                said: dict[str, Any] = reply.raise_for_status().json()["choices"][0]["message"]
                messages.append(said)
                if not said.get("tool_calls"):
                    transcript.report = said.get("content") or ""
                    return transcript
                messages += [await _answer(server, call, transcript) for call in said["tool_calls"]]
            transcript.report = f"(no answer after {MOST_TURNS} turns)"
            return transcript

    return play


async def _answer(server: Client, asked: dict[str, Any], transcript: Transcript) -> dict[str, Any]:
    """One tool call for the model; arguments that are no JSON are told so."""
    function = asked["function"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError as error:
        return {
            "role": "tool",
            "tool_call_id": asked["id"],
            "content": f"The arguments are not JSON: {error}",
        }
    result = await server.call_tool(function["name"], arguments)
    transcript.calls.append(
        Call(
            function["name"],
            arguments,
            dict(result.structured_content or {}),
            bool(result.is_error),
        )
    )
    return {
        "role": "tool",
        "tool_call_id": asked["id"],
        "content": getattr(result.content[0], "text", ""),
    }
