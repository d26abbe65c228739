"""Play a task: lay out its desk, let a player answer, judge what it did. The scripted player
follows the reference of the task."""

import os
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from jinja2.nativetypes import NativeEnvironment
from mcp import Client

from agent_evals.bench import lay_out
from agent_evals.judge import Fault, judge
from agent_evals.task import Spoilt, Task
from agent_evals.transcript import Call, Transcript
from saescope.names import home
from saescope_mcp.app import build_server
from saescope_mcp.settings import Settings

_NATIVE = NativeEnvironment(undefined=StrictUndefined)
_TEXT = Environment(undefined=StrictUndefined, autoescape=False)


class Desk(NamedTuple):
    """What a player may use: a server, and the user's words with every place filled in."""

    prompt: str
    places: Mapping[str, Any]
    environment: Mapping[str, str]
    """For a server in a process of its own."""
    settings: Settings


Player = Callable[[Task, Desk], Awaitable[Transcript]]


class Verdict(NamedTuple):
    """One task, played once."""

    task: Task
    transcript: Transcript
    faults: list[Fault]


@asynccontextmanager
async def desk_of(task: Task) -> AsyncGenerator[Desk]:
    """A folder and a SAESCOPE_HOME that only this task uses; the embedded model is shared."""
    before, folder = (
        os.environ.get("SAESCOPE_HOME"),
        Path(tempfile.mkdtemp(prefix="saescope-eval-")).resolve(),
    )
    models = home() / "models"
    try:
        own, files = folder / "home", folder / "files"
        own.mkdir()
        files.mkdir()
        if models.is_dir():
            (own / "models").symlink_to(models.resolve(), target_is_directory=True)
        os.environ["SAESCOPE_HOME"] = str(own)
        places: dict[str, Any] = lay_out(files, task.things, task.model)
        settings = Settings(
            read_roots=(files,), write_roots=(files,), offline=True, **task.settings
        )
        places["judged"] = judged
        places["before"] = [call.result for call in await _before(task, settings, places)]
        yield Desk(fill(task.prompt, places), places, _environment(own, files, task), settings)
    finally:
        os.environ.pop("SAESCOPE_HOME")
        os.environ.update({"SAESCOPE_HOME": before} if before is not None else {})
        shutil.rmtree(folder, ignore_errors=True)


async def _before(task: Task, settings: Settings, places: Mapping[str, Any]) -> list[Call]:
    """What another session did here before; this one finds its handles, jobs and indexes."""
    if not task.before:
        return []
    async with Client(build_server(settings)) as client:
        return await _make(client, task.before, places)


def _environment(own: Path, files: Path, task: Task) -> dict[str, str]:
    said = {"home": own, "read_roots": files, "write_roots": files, "offline": 1} | task.settings
    return {f"SAESCOPE_{name.upper()}": str(value) for name, value in said.items()}


async def play_reference(task: Task, desk: Desk) -> Transcript:
    """The calls and the report that the task itself gives."""
    async with Client(build_server(desk.settings)) as client:
        calls = await _make(client, task.calls, desk.places)
    return Transcript(
        calls, fill(task.report, {**desk.places, "r": [call.result for call in calls]})
    )


async def _make(
    client: Client, calls: list[dict[str, dict[str, Any]]], places: Mapping[str, Any]
) -> list[Call]:
    """Each call in turn; a job is waited for."""
    made: list[Call] = []
    for call in calls:
        ((tool, arguments),) = call.items()
        said = fill(arguments, {**places, "r": [each.result for each in made]})
        result = await client.call_tool(tool, said)
        document = await settled(client, tool, dict(result.structured_content or {}))
        made.append(Call(tool, said, document, bool(result.is_error)))
    return made


async def settled(client: Client, tool: str, document: dict[str, Any]) -> dict[str, Any]:
    """The result of what continues as a job; a training is left to run, and whoever asks for the
    status of a job gets that."""
    while document.get("state") == "running" and tool not in ("train_sae", "job_status"):
        job = (
            await client.call_tool(
                "job_status",
                {"job_id": document["job_id"], "wait_s": 30, "response_format": "detailed"},
            )
        ).structured_content or {}
        document = document if job["state"] == "running" else dict(job["result"] or job["error"])
    return document


def fill(value: Any, places: Mapping[str, Any]) -> Any:
    """Every `{{ place }}` filled in; a string that is nothing else becomes the thing itself."""
    if isinstance(value, dict):
        return {name: fill(item, places) for name, item in value.items()}
    if isinstance(value, list):
        return [fill(item, places) for item in value]
    if not isinstance(value, str) or "{" not in value:
        return value
    if value.startswith("{{") and value.endswith("}}") and value.count("{{") == 1:
        return _NATIVE.compile_expression(value[2:-2].strip(), undefined_to_none=False)(**places)
    return _TEXT.from_string(value).render(**places)


def judged(items: list[dict[str, Any]], pattern: str) -> list[bool]:
    """The answers to a quiz of somebody who knows only the label, written as a regular
    expression."""
    return [
        bool(re.search(pattern, item["text"].partition("⟦")[2].partition("⟧")[0] or item["text"]))
        for item in items
    ]


async def play(task: Task, player: Player = play_reference) -> Verdict:
    """One task from the desk to the verdict."""
    async with desk_of(task) as desk:
        transcript = await player(task, desk)
        return Verdict(task, transcript, judge(task, transcript, partial(_recompute, desk.places)))


async def play_with_spoilt(task: Task) -> tuple[Verdict, list[tuple[Spoilt, list[Fault]]]]:
    """The reference, and what the judge says of each spoilt answer."""
    async with desk_of(task) as desk:
        transcript = await play_reference(task, desk)
        again = partial(_recompute, desk.places)
        verdict = Verdict(task, transcript, judge(task, transcript, again))
        return verdict, [
            (spoilt, judge(task, spoil(transcript, spoilt, desk.places), again))
            for spoilt in task.spoilt
        ]


def spoil(good: Transcript, spoilt: Spoilt, places: Mapping[str, Any]) -> Transcript:
    """The good transcript with another report, without some calls, or with other calls that are
    said to have succeeded."""
    results = [call.result for call in good.calls]
    changed = list(good.calls)
    for i, call in spoilt.instead.items():
        ((tool, arguments),) = call.items()
        done = Call(
            tool, fill(arguments, {**places, "r": results}), {"summary": "done"}, is_error=False
        )
        changed[i : i + 1] = [done]
    calls = [call for i, call in enumerate(changed) if i not in spoilt.without]
    return Transcript(
        calls, fill(spoilt.report, {**places, "r": results}) if spoilt.report else good.report
    )


def _recompute(places: Mapping[str, Any], name: str, arguments: dict[str, Any]) -> float:
    from agent_evals.truth import recompute

    return recompute(name, {"model": places["model"], **fill(arguments, places)})
