"""`saescope <verb>`: a command for every tool, made from its request model, and the commands around
them."""

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from saescope import __version__
from saescope.errors import ConfigError
from saescope.untrusted import clean_output
from saescope_mcp.app import ALL_TOOLS, log_to_stderr
from saescope_mcp.binding import Outcome, Tool
from saescope_mcp.cli.calls import LOAD_SAE, call, loads_first, sparing
from saescope_mcp.cli.flags import arguments_from, options_of
from saescope_mcp.cli.show import show
from saescope_mcp.cli.terminal import Terminal, json_line
from saescope_mcp.kinds import KINDS
from saescope_mcp.replies import refusal
from saescope_mcp.tools.status import JOB_STATUS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # the rich help cuts names and numbers on a narrow terminal
    help="Look inside a language model with sparse autoencoders. Start with: saescope demo",
)
_LOADING = ("path", "release", "sae_id", "revision", "model", "hook_name", "gate")
STOPPED = ("cancelled", "interrupted")
INTERRUPTED = 130
"""The exit status of what Ctrl-C ended."""
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the tool's document, and nothing else.")
]


def _version(wanted: bool) -> bool:
    if wanted:
        sys.stdout.write(f"saescope {__version__}\n")
        raise typer.Exit
    return wanted


@app.callback()
def saescope(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Options of all commands."""
    log_to_stderr()


@app.command(short_help="Features, an explanation, its check and steering on a small real model.")
def demo() -> None:
    """The whole story on a small real model: features, an explanation, its check, steering."""
    from saescope_mcp.cli.demo import run_demo

    raise typer.Exit(run_demo())


@app.command(short_help="What is installed and reachable here, and what to do about the rest.")
def doctor(as_json: AsJson = False) -> None:
    """What is installed, reachable and cached here, and what to do about the rest."""
    from saescope_mcp.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(as_json=as_json))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(context: typer.Context) -> None:
    """Run the MCP tool server on stdio (--http: on loopback)."""
    from saescope_mcp.cli.serve import serve

    raise typer.Exit(serve(context.args))


def command_for(tool: Tool) -> Callable[..., None]:
    """Make a function that typer can turn into a command."""
    needs_sae = loads_first(tool)

    def command(**given: Any) -> None:
        as_json = given.pop("as_json")
        loading = (
            arguments_from(LOAD_SAE.request, {name: given.pop(name) for name in _LOADING})
            if needs_sae
            else {}
        )
        outcome = _outcome(tool, given, loading, as_json=as_json)
        if as_json:
            sys.stdout.write(json_line(outcome.document) + "\n")
        else:
            show(outcome, Terminal())
        stopped = tool.name in KINDS and outcome.document.get("state") in STOPPED
        raise typer.Exit(INTERRUPTED if stopped else int(outcome.is_error))

    parameters = own_options(tool)
    if needs_sae:
        parameters += [option for option in options_of(LOAD_SAE.request) if option.name in _LOADING]
    parameters.append(
        inspect.Parameter(
            "as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson
        )
    )
    command.__doc__ = (
        f"{tool.description}\n\nWithout --sae, --path or --release: the embedded SAE."
        if needs_sae
        else tool.description
    )
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__signature__ = inspect.Signature(parameters)
    return command


def own_options(tool: Tool) -> list[inspect.Parameter]:
    """One option for each argument that has a meaning here: a job of this process ends with the
    command, so that nothing could be asked about it later."""
    outlives = tool.name in KINDS or tool is JOB_STATUS
    return [each for each in options_of(tool.request) if outlives or each.name != "wait_s"]


def _outcome(
    tool: Tool, given: dict[str, Any], loading: dict[str, Any], *, as_json: bool
) -> Outcome:
    from saescope_mcp.cli.following import start_and_follow

    say = sparing(_say)
    try:
        if tool.name in KINDS:
            console = Terminal(stderr=True, quiet=as_json)
            return start_and_follow(tool, given, loading, console=console, say=say)
        return call(tool, arguments_from(tool.request, given), loading, say)
    except ConfigError as error:
        return Outcome(dict(refusal(tool.name, error)), is_error=True)


def _say(message: str) -> None:
    sys.stderr.write(f"… {clean_output(message)}\n")
    sys.stderr.flush()


for _tool in ALL_TOOLS:
    app.command(
        _tool.name.replace("_", "-"),
        short_help=_tool.description.split(";")[0].split(". ")[0] + ".",
    )(command_for(_tool))
