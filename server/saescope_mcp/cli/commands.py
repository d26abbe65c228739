"""`saescope <verb>`: a command for every tool, made from its schema, and the commands around them.
Nothing heavy is imported before a command is known to be complete."""

import inspect
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from saescope import __version__
from saescope.errors import ConfigError
from saescope.progress import Say, sparing
from saescope.untrusted import clean_output
from saescope_mcp.cli.flags import arguments_from, flag_of, options_of
from saescope_mcp.cli.helping import ToolCommand, Tools, example_of
from saescope_mcp.cli.typed import description_in_shell, program
from saescope_mcp.cli.verbs import LOADING, OUTLIVE, SHORT, VERBS, Verb
from saescope_mcp.cli.warm import CommandCall, CommandOutcome, work_of_another

app = typer.Typer(
    cls=Tools,
    pretty_exceptions_enable=False,  # `crash` says what to do
    rich_markup_mode=None,  # the rich help cuts names and numbers on a narrow terminal
    help="Look inside a language model with sparse autoencoders (SAEs). Start with: "
    f"{program()} demo. Options and an example of a command: {program()} COMMAND --help",
)
STOPPED = ("cancelled", "interrupted")
INTERRUPTED = 130
"""The exit status of what Ctrl-C ended."""
MISUSED = 2
_WHOLE = {"response_format": "detailed"}
_FOR_A_PERSON: dict[str, dict[str, str]] = {"job_status": _WHOLE, "results": _WHOLE}
"""What a display shows, and a concise document goes without: the curves of a training, all of a
kept result."""
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the tool's document, and nothing else.")
]
OpenIt = Annotated[
    bool, typer.Option("--open", help="Draw the page or picture, and open it in the browser.")
]


def _version(wanted: bool) -> bool:
    if wanted:
        sys.stdout.write(f"saescope {__version__}\n")
        raise typer.Exit
    return wanted


@app.callback(invoke_without_command=True)
def saescope(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit."),
    ] = False,
) -> None:
    """Options of all commands."""
    log_to_stderr()
    if context.invoked_subcommand is None:
        from saescope_mcp.cli.here import show_what_is_here

        show_what_is_here()


def log_to_stderr() -> None:
    """Plain lines, as the server's."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


@app.command(short_help="The whole story on a small real model, in half a minute.")
def demo() -> None:
    """The whole story on a small real model: features, an explanation, its check, steering."""
    from saescope_mcp.cli.demo import run_demo

    raise typer.Exit(run_demo())


@app.command(short_help="What is installed and reachable here, and what to do.")
def doctor(as_json: AsJson = False) -> None:
    """What is installed, reachable and cached here, and what to do about the rest; fails if
    something needed is missing or too old or new."""
    from saescope_mcp.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(as_json=as_json))


@app.command(short_help="The window, in a browser: features, texts, trainings.")
def view(
    port: Annotated[
        int, typer.Option("--port", help="The port; 0: any that is free.", min=0, max=65535)
    ] = 0,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Only say the address; open no browser.")
    ] = False,
) -> None:
    """The window: a page on this machine to browse features, read texts, explain predictions,
    steer, watch trainings and find earlier results. Its address holds a secret; Ctrl-C ends it."""
    from saescope_mcp.cli.window import show_window

    raise typer.Exit(show_window(port, open_it=not no_open))


@app.command(
    short_help="Run the MCP tool server for an agent.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(context: typer.Context) -> None:
    """Run the MCP tool server on stdio (--http: over HTTP)."""
    from saescope_mcp.cli.serve import serve

    raise typer.Exit(serve(context.args))


def _warm(**loading: Any) -> None:
    """Keep an SAE and its model in memory: commands in other terminals answer at once, with the
    same numbers. One at a time; Ctrl-C ends it."""
    from saescope_mcp.cli.keeping import keep

    raise typer.Exit(keep(arguments_from(VERBS["load_sae"], loading), sparing(_say)))


def _with_options(function: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Give a function of keywords the options that typer is to read."""
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    function.__dict__["__signature__"] = inspect.Signature(parameters)


def command_for(verb: Verb) -> Callable[..., None]:
    """Make a function that typer can turn into a command."""

    def command(**given: Any) -> None:
        as_json, open_it = given.pop("as_json"), given.pop("open_it", False)
        loading = {name: given.pop(name) for name in LOADING} if verb.loads_first else {}
        drawn = {"picture": True} if open_it and "picture" in verb.properties else {}
        arguments = arguments_from(verb, given) | drawn
        if not as_json:
            _check_complete(verb, arguments)
            arguments = _FOR_A_PERSON.get(verb.tool, {}) | arguments
        of_load = arguments_from(VERBS["load_sae"], loading)
        asked = CommandCall(verb.tool, arguments, of_load)
        outcome = _outcome(verb, asked, as_json=as_json)
        if as_json:
            _print_json(outcome)
        else:
            _show(verb, outcome, arguments)
        if open_it and not outcome.is_error:
            open_page(outcome.document)
        stopped = verb.tool in OUTLIVE and outcome.document.get("state") in STOPPED
        raise typer.Exit(INTERRUPTED if stopped else int(outcome.is_error))

    parameters = options_of(verb)
    if verb.loads_first:
        parameters += options_of(VERBS["load_sae"], *LOADING)
    parameters += [_switch("open_it", OpenIt)] if verb.draws else []
    parameters.append(_switch("as_json", AsJson))
    command.__doc__ = description_in_shell(verb)
    _with_options(command, parameters)
    return command


def _switch(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation
    )


def _check_complete(verb: Verb, arguments: dict[str, Any]) -> None:
    """What is missing is said at once, before anything is imported or loaded."""
    missing = [
        " or ".join(flag_of(name, verb.properties[name]) for name in names)
        for names in verb.missing(arguments)
    ]
    if missing:
        sys.stderr.write(
            f"Missing: {'; '.join(missing)}.\n{example_of(verb)}"
            f"All options: {program()} {verb.command} --help\n"
        )
        raise typer.Exit(MISUSED)


def _outcome(verb: Verb, asked: CommandCall, *, as_json: bool) -> CommandOutcome:
    """A warm process is asked first: what a command imports to do the work takes a second."""
    say = sparing(_say)
    try:
        done = work_of_another(asked, say) if verb.loads_first else None
        return done or _own_work(verb, asked, say, as_json=as_json)
    except ConfigError as error:
        from saescope_mcp.replies import refusal

        return CommandOutcome(dict(refusal(verb.tool, error)), is_error=True)


def _own_work(verb: Verb, asked: CommandCall, say: Say, *, as_json: bool) -> CommandOutcome:
    from saescope_mcp.app import ALL_TOOLS
    from saescope_mcp.cli.calls import call
    from saescope_mcp.cli.following import start_and_follow
    from saescope_mcp.cli.terminal import Terminal

    tool = next(tool for tool in ALL_TOOLS if tool.name == verb.tool)
    _, arguments, of_load = asked
    if verb.tool in OUTLIVE:
        console = Terminal(stderr=True, quiet=as_json)
        done = start_and_follow(tool, arguments, of_load, console=console, say=say)
    else:
        done = call(tool, arguments, of_load, say)
    return CommandOutcome(done.document, done.is_error)


def _print_json(outcome: CommandOutcome) -> None:
    from saescope_mcp.cli.terminal import json_line

    sys.stdout.write(json_line(outcome.document) + "\n")


def _show(verb: Verb, outcome: CommandOutcome, arguments: dict[str, Any]) -> None:
    from saescope_mcp.cli.show import show
    from saescope_mcp.cli.terminal import Terminal

    show(outcome, Terminal(), verb, arguments)


def open_page(document: dict[str, Any]) -> None:
    """Open the page, or the first picture; where nothing can, its path is said."""
    place = document.get("page_path") or next(iter(document.get("pictures", [])), None)
    if place:
        _say(f"opening {place}")
        if typer.launch(str(place)):
            _say("nothing here opens it: open that file in a browser")


def _say(message: str) -> None:
    sys.stderr.write(f"… {clean_output(message)}\n")
    sys.stderr.flush()


_with_options(_warm, options_of(VERBS["load_sae"], *LOADING))
app.command("warm", short_help="Keep a model in memory, so that commands answer at once.")(_warm)
for _verb in VERBS.values():
    app.command(_verb.command, cls=ToolCommand, short_help=SHORT[_verb.tool])(command_for(_verb))
