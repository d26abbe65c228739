"""A live agent as a player: a command or an endpoint, which gets the wish in words."""

import json
import os
import re

from agent_evals import agents
from agent_evals.play import Desk, Player
from agent_evals.scientist.players import own_home, settings_of, where
from agent_evals.scientist.wish import Answer, Ground, Scientist, Wish
from agent_evals.task import Task

PROMPT = """The SAE is loaded by load_sae({where}).
Find its one feature for this concept: {description}. It must fire on texts of the concept and not
on texts that only come close, and when it is pushed the model must write the concept (tokens such
as {tokens}) without its text breaking. {texts}If no feature does both, say so.
End with one line, FEATURE: and its index, or FEATURE: none."""
NAMED = re.compile(r"FEATURE:\s*(\d+|none)\b", re.IGNORECASE)


def live(agent: Player) -> Scientist:
    """An agent that is a command or an endpoint (`agent_evals.agents`), one wish at a time."""

    async def play(ground: Ground, wishes: list[Wish]) -> list[Answer]:
        return [await _by_agent(agent, ground, wish) for wish in wishes]

    return play


async def _by_agent(agent: Player, ground: Ground, wish: Wish) -> Answer:
    settings = settings_of(ground)
    roots = os.pathsep.join(map(str, settings.read_roots))
    with own_home() as home:
        environment = {
            "SAESCOPE_HOME": str(home),
            "SAESCOPE_READ_ROOTS": roots,
            "SAESCOPE_OFFLINE": str(int(settings.offline)),
        }
        desk = Desk(asked_for(ground, wish), {}, environment, settings)
        task = Task(name=wish.name, prompt="", trap="", calls=[], report="", spoilt=[])
        done = await agent(task, desk)
    return Answer(named(done.report), done.report[-200:], done.calls)


def asked_for(ground: Ground, wish: Wish) -> str:
    """The wish in words."""
    sides = wish.shown._asdict() | {"neutral prompts": wish.prompts}
    texts = "".join(f"{name}: {json.dumps(each)}\n" for name, each in sides.items() if each)
    return PROMPT.format(
        where=", ".join(f"{name}={value!r}" for name, value in where(ground).items()),
        description=wish.description,
        tokens=", ".join(map(repr, wish.tokens)),
        texts=f"Examples, which you may add to:\n{texts}" if texts else "Write texts of your own. ",
    )


def named(report: str) -> int | None:
    """The feature of the last line that names one; an answer without such a line names none."""
    said = NAMED.findall(report)
    return int(said[-1]) if said and said[-1].isdigit() else None


def _configured() -> Player:
    """The agent of the environment, as `agent_evals.run` knows it.

    Raises:
        ValueError: there is none.
    """
    line, url = (os.environ.get(f"SAESCOPE_EVAL_{name}", "") for name in ("COMMAND", "URL"))
    if line:
        return agents.command(agents.CLAUDE if line == "claude" else line, timeout_s=3600)
    if url:
        model, key = (os.environ.get(f"SAESCOPE_EVAL_{name}", "") for name in ("MODEL", "KEY"))
        return agents.endpoint(url, model, key)
    raise ValueError(
        "no live agent is configured. Set SAESCOPE_EVAL_COMMAND (e.g. claude), or "
        "SAESCOPE_EVAL_URL and SAESCOPE_EVAL_MODEL."
    )


async def live_agent(ground: Ground, wishes: list[Wish]) -> list[Answer]:
    """The configured live agent."""
    return await live(_configured())(ground, wishes)
