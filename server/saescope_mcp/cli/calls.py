"""A tool called from the command line: its SAE is loaded first, and what the load is at goes to
stderr."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import anyio
from pydantic import ValidationError

from saescope.progress import Say
from saescope_mcp.binding import Outcome, Tool
from saescope_mcp.cli.verbs import VERBS
from saescope_mcp.replies import refusal
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.tools import load
from saescope_mcp.tools.status import JOB_STATUS

FOREVER_S = 1e9
LOAD_SAE = load.TOOLS[0]


def person_settings() -> Settings:
    """Settings for a person, who typed the path and waits."""
    return Settings.from_env().model_copy(
        update={"read_anywhere": True, "label_source": "you", "max_wait_s": FOREVER_S}
    )


def call(
    tool: Tool,
    arguments: dict[str, Any],
    loading: Mapping[str, Any],
    say: Say,
    *,
    settings: Settings | None = None,
) -> Outcome:
    """The tool's outcome, or that of the load before it if that failed."""
    state = AppState(settings or person_settings())
    return settled(state, anyio.run(partial(answer, state, tool, arguments, loading, say)))


def settled(state: AppState, outcome: Outcome) -> Outcome:
    """The outcome, once the ledger has been written: the command ends with it."""
    if (warnings := state.keeper.settle()) and not outcome.is_error:
        outcome.document["warnings"] += warnings
    return outcome


def waiting(tool: Tool) -> dict[str, float]:
    """The argument with which a call lasts as long as its work, so that it has a result."""
    # job_status is left out: its wait_s is for whoever asks for it
    is_work = "wait_s" in tool.request.model_fields and tool is not JOB_STATUS
    return {"wait_s": FOREVER_S} if is_work else {}


async def with_progress(
    state: AppState, work: Callable[[], Awaitable[Outcome]], say: Say
) -> Outcome:
    """The outcome of the work; each new message of its jobs is said."""
    async with anyio.create_task_group() as group:
        group.start_soon(_watch, state, say)
        outcome = await work()
        group.cancel_scope.cancel()
        return outcome
    raise AssertionError("a task group does not swallow what its body raises")


async def answer(
    state: AppState,
    tool: Tool,
    arguments: dict[str, Any],
    loading: Mapping[str, Any],
    say: Say,
) -> Outcome:
    """The tool's outcome, or that of the load before it if that failed."""

    async def work() -> Outcome:
        if refused := _refused(state, tool, arguments):
            return refused
        if tool is LOAD_SAE:
            return await tool.call(state, {"wait_s": FOREVER_S, **arguments})
        if not VERBS[tool.name].loads_first:
            return await tool.call(state, waiting(tool) | arguments)
        named: dict[str, Any] = {}
        for handle, source in _loads(state, _handles(arguments), loading):
            loaded = await LOAD_SAE.call(state, {**source, "wait_s": FOREVER_S})
            if loaded.is_error:
                return loaded
            named |= {} if handle else {"sae": loaded.document["sae"]}
        return await tool.call(state, {**named, **waiting(tool), **arguments})

    return await with_progress(state, work, say)


def _refused(state: AppState, tool: Tool, arguments: Mapping[str, Any]) -> Outcome | None:
    """What the tool says of arguments that are wrong, before any SAE is loaded for it."""
    given = dict(arguments)
    if VERBS[tool.name].loads_first and "" in _handles(arguments):
        given["sae"] = "the embedded SAE"
    try:
        tool.request.model_validate(given, context={"settings": state.settings})
    except ValidationError as error:
        return Outcome(dict(refusal(tool.name, error, tool.request)), is_error=True)
    return None


def _handles(arguments: Mapping[str, Any]) -> list[str]:
    """The SAEs that a call names; an empty one stands for the one that is meant where none is
    named."""
    listed = [*arguments.get("edits", []), *arguments.get("features", [])]
    items = [item for item in listed if isinstance(item, dict)]  # other features are numbers
    own = [item["sae"] for item in items if "sae" in item]
    named = [*([arguments["sae"]] if "sae" in arguments else []), *arguments.get("saes", [])]
    unnamed = not named and (not items or len(own) < len(items))
    return [*([""] if unnamed else named), *(handle for handle in own if handle not in named)]


def _loads(
    state: AppState, handles: Sequence[str], loading: Mapping[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """What is to be loaded, with the arguments of load_sae; a handle that nobody knows is left for
    the tool to refuse.

    What is said of a load is about the first SAE: the others load as they did before.
    """
    known = state.known.all()
    loads: list[tuple[str, dict[str, Any]]] = []
    for n, handle in enumerate(handles):
        source = {name: v for part in known.get(handle, ()) for name, v in asdict(part).items()}
        extra = dict(loading) if n == 0 else {}
        if source or extra or not handle:
            loads.append((handle, {**source, **extra}))
    return loads


async def _watch(state: AppState, say: Say) -> None:
    last_message = ""
    while True:
        for job in state.jobs.all()[:1]:
            if job.state == "running" and job.message != last_message:
                last_message = job.message
                say(last_message)
        await anyio.sleep(0.1)
