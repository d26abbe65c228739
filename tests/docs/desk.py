"""A reader at a desk: one process, one loaded model, and something real for every placeholder of
the documents."""

import itertools
import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client

from saescope.embedded import landmarks
from saescope_mcp.app import ALL_TOOLS, build_server
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

TEXTS = [
    "My sister lost her keys.",
    "She called her mother at noon.",
    "The queen opened her letter.",
]
OTHERS = [
    "My brother lost his keys.",
    "He called his father at noon.",
    "The king opened his letter.",
]
PROMPT = "My sister lost her keys and called our mother because"
FEATURE: int = landmarks()["female"]
"""Of the embedded SAE: fires on female words, so on TEXTS and PROMPT; the documents' 1234 stands
for any feature."""
ANY_FEATURE, ANY_JOB = 1234, "train-1a2b3c"
SMALLER: dict[str, dict[str, int]] = {
    "steer_generate": {"max_new_tokens": 2, "n_controls": 1, "wait_s": 50},
    "compare_prompts": {"k": 3, "n_controls": 2},
    "steer_search": {"max_new_tokens": 2, "wait_s": 50},
    "attribute_logit": {"k": 4, "n_controls": 2},
    "trace_circuit": {"max_features": 20, "n_measured": 2, "wait_s": 50},
    "evaluate_sae": {"n_tokens": 64, "wait_s": 50},
}
"""The most that a test has time for."""
MOST_TOKENS = 500
"""Of a corpus that is read for the firings of a feature."""
CONTEXT = ("saescope.evals.text.LONGEST_CONTEXT", 32)
"""An evaluation of few tokens reads a whole context all the same, with every stand-in."""
SHORT_LENS: dict[str, Any] = {
    "n_prompts": 1,
    "context_size": 12,
    "skip_first": 4,
    "first_layer": 14,
}
"""A Jacobian lens for the layers of the desk's SAEs; a real one takes minutes."""
FEWER = {
    "saescope.steering.writers.N_MEASURED": 2,
    "saescope.search.prompts.N_PROMPTS": 2,
    "saescope.search.matching.N_TOKENS": 256,
}
"""Of features that may write a token, each is measured beside 19 random ones; a causal search does
so on every neutral prompt."""


def letters() -> str:
    """Short documents that differ: half of them about women."""
    people = [
        ("My sister", "her"),
        ("The queen", "her"),
        ("Mary", "her"),
        ("My brother", "his"),
        ("The king", "his"),
        ("John", "his"),
    ]
    deeds = [
        "lost {} keys",
        "called {} mother at noon",
        "opened {} letter",
        "forgot {} hat",
        "sold {} house",
        "wrote to {} friend",
    ]
    times = ["in May", "on Monday", "after the storm"]
    told = itertools.product(people, deeds, times)
    return "\n\n".join(f"{who} {deed.format(whose)} {when}." for (who, whose), deed, when in told)


class Answer(NamedTuple):
    """What the server said."""

    document: dict[str, Any]
    is_error: bool


@dataclass
class Desk:
    """A server that has loaded the embedded SAE, and files to name."""

    portal: BlockingPortal
    """The server's event loop: jobs and locks live in one."""
    state: AppState
    folder: Path
    sae: str
    upper: str
    """The handle of the same weights one layer further up, the documents' UPPER."""
    job_id: str
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])

    @property
    def model(self) -> Any:
        return self.state.saes[self.sae].model

    def fill(self, name: str, value: Any) -> Any:
        """The argument with something real in the place of "..." and of the documents' made-up
        names."""
        if isinstance(value, list):
            return (
                self._texts(name)
                if set(map(str, value)) == {"..."}
                else [self.fill(name, item) for item in value]
            )
        if isinstance(value, dict):
            return {key: self.fill(key, item) for key, item in value.items()}
        if name == "feature" and value == ANY_FEATURE:
            return FEATURE
        if value in ("LOWER", "UPPER"):
            return self.sae if value == "LOWER" else self.upper
        if name in ("job_id", "resume") and value in ("...", ANY_JOB):
            return self.job_id
        if isinstance(value, str) and value.startswith("/path/to/"):
            return str(self.folder / value.removeprefix("/path/to/"))
        return self._placeholder(name) if value == "..." else value

    def _texts(self, name: str) -> list[str]:
        return OTHERS if name == "against" else TEXTS

    def _placeholder(self, name: str) -> str:
        known = {
            "sae": self.sae,
            "handle": self.sae,
            "text": TEXTS[0],
            "prompt": PROMPT,
            "dataset": str(self.folder / "texts"),
            "quiz_id": "",
            "a": OTHERS[0],
            "b": TEXTS[0],
            "match": self.upper,
        }
        assert name in known, f'nothing stands for {name}="..."'
        return known[name]

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        """The server's answer, through the protocol; asked only once, unless the model was busy."""
        said = {name: self.fill(name, value) for name, value in arguments.items()}
        small = SMALLER.get(tool, {})
        said |= {name: min(said.get(name, most), most) for name, most in small.items()}
        if tool == "encode_text" and "n_tokens" in said:
            said["n_tokens"] = min(said["n_tokens"], MOST_TOKENS)
        if said.get("lens") == "jacobian" or "through" in said:
            self._fit_a_lens()
        if "quiz_id" in said:
            said |= self._quizzed(said)
        key = f"{tool} {said}"
        if key in self.answers:
            return self.answers[key]
        answer = self.portal.call(_asked, self.state, tool, said)
        if answer.document.get("code") != "BUSY":
            self.answers[key] = answer
        return answer

    def _fit_a_lens(self) -> None:
        """Keep a small Jacobian lens of the model, once: fitted by the call it takes minutes."""
        from saescope.lens import find_lens, fit_lens

        if find_lens(self.model) is None:
            fit_lens(self.model, **SHORT_LENS)

    def _quizzed(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """A quiz as it was just given, and as many answers as it has items."""
        quiz = self.call("quiz_feature", {"sae": said["sae"], "feature": said["feature"]})
        assert not quiz.is_error, quiz
        return {
            "quiz_id": quiz.document["quiz_id"],
            "answers": ["her" in item["text"] for item in quiz.document["items"]],
        }


async def _asked(state: AppState, tool: str, arguments: dict[str, Any]) -> Answer:
    async with Client(build_server(state=state)) as client:
        result = await client.call_tool(tool, arguments)
    assert result.structured_content is not None
    return Answer(result.structured_content, bool(result.is_error))


@contextmanager
def opened(folder: Path) -> Generator[Desk]:
    """A desk with its files below `folder`; `SAESCOPE_HOME` is already that of the reader."""
    import saescope as ss

    state = AppState(Settings(read_roots=(folder,), write_roots=(folder,), offline=True))

    (folder / "texts").mkdir()
    (folder / "texts" / "letters.txt").write_text(letters(), encoding="utf-8")
    lines = letters().replace("\n\n", "\n")
    (folder / "texts.txt").write_text(lines, encoding="utf-8")
    with start_blocking_portal() as portal:
        sae, job_id = portal.call(_prepared, state)
        entry = state.saes[sae]
        entry.sae.save(folder / "sae")
        upper = portal.call(_upper_loaded, state, folder)
        ss.index_features(
            entry.model,
            entry.sae,
            str(folder / "texts"),
            context_size=16,
            quiz_share=0.5,
            n_quiz=10,
        )
        yield Desk(portal, state, folder, sae, upper, job_id)
        state.close()


async def _prepared(state: AppState) -> tuple[str, str]:
    """The embedded SAE, loaded, and a job that is done."""
    loaded = await _ended(state, await _must(state, "load_sae"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*CONTEXT)
        judged = await _must(
            state, "evaluate_sae", sae=loaded["sae"], n_tokens=64, baselines=False, wait_s=0.0
        )
        await _ended(state, judged)
    return loaded["sae"], judged["job_id"]


async def _upper_loaded(state: AppState, folder: Path) -> str:
    """A second SAE of the model: the weights in `folder / "sae"`, one layer further up."""
    shutil.copytree(folder / "sae", folder / "upper")
    cfg = folder / "upper" / "cfg.json"
    told = cfg.read_text(encoding="utf-8")
    assert "blocks.14." in told
    cfg.write_text(told.replace("blocks.14.", "blocks.15."), encoding="utf-8")
    loaded = await _ended(state, await _must(state, "load_sae", path=str(folder / "upper")))
    return loaded["sae"]


async def _ended(state: AppState, document: dict[str, Any]) -> dict[str, Any]:
    """The result of a job, however long it takes: fixtures have no time limit."""
    job_id = document["job_id"]
    while document["state"] in ("queued", "running"):
        said = await _must(
            state, "job_status", job_id=job_id, wait_s=10.0, response_format="detailed"
        )
        document = said["result"] if said["state"] == "done" else said
    assert document["state"] == "done", document
    return {**document, "job_id": job_id}


async def _must(state: AppState, tool: str, **arguments: Any) -> dict[str, Any]:
    outcome = await next(each for each in ALL_TOOLS if each.name == tool).call(state, arguments)
    assert not outcome.is_error, outcome.text
    return outcome.document


@pytest.fixture(scope="session")
def shared_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, Path]]:
    from saescope.embedded import is_ready
    from saescope.names import home

    if not is_ready():
        pytest.fail(
            "The embedded model is not in the cache: run `make test`, or python "
            "scripts/prepare_model.py first.",
            pytrace=False,
        )
    models, own = home() / "models", tmp_path_factory.mktemp("reader")
    (own / "models").symlink_to(models.resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESCOPE_HOME", str(own))
        with opened(tmp_path_factory.mktemp("desk")) as desk:
            yield desk, own


@pytest.fixture
def desk(shared_desk: tuple[Desk, Path], own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The one desk, in the home that it was set up in."""
    monkeypatch.setenv("SAESCOPE_HOME", str(shared_desk[1]))
    for name, fewer in FEWER.items():
        monkeypatch.setattr(name, fewer)
    return shared_desk[0]
