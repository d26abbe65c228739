"""An SAE in which one feature writes a known token, and kept results of tests of it: some are good,
some show nothing. All come from calls of the tools."""

import random
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.core.features.planted import planted_sae, sentence
from tests.server.helpers import call, save_random_sae

from saescope.models import LanguageModel
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.state.slots import ModelSlot

WRITER, WEAK, TOKEN, OTHER = 7, 3, " and", " of"
HOOK = "blocks.3.hook_resid_post"
STRONG = 12.0
CHANCE = 21
"""Of these features one moves the token further than its controls on the first prompt."""
RANGED, ROAD = 27, "We went down the road to"
"""A feature that lowers the token a little more than its controls do after this prompt."""
PROMPTS = [
    "The old man went to the sea",
    "A king and his son saw the",
    "My mother said that she",
    "The little boat came back to",
    "In the day they found a",
    "He gave her the red",
    "They sat down and looked at",
    "It was time for the",
]


def planted(folder: Path, model: LanguageModel, *, seed: int) -> Path:
    """A random SAE after the last block; its feature WRITER points to where TOKEN is read out."""
    import torch
    from safetensors.torch import load_file, save_file

    made = save_random_sae(folder, hook_name=HOOK, seed=seed)
    (file,) = made.glob("*.safetensors")
    tensors = load_file(file)
    W_U = model.bridge.W_U.detach().float()
    token = model.single_token(TOKEN, field="target")
    row = W_U[:, token] - W_U.mean(dim=1)
    tensors["W_dec"][WRITER] = torch.nn.functional.normalize(row, dim=0)
    save_file(tensors, file)
    return made


class Record:
    """The results of one session, made once; each test has the ledger anew."""

    def __init__(
        self, folder: Path, model: LanguageModel, model_dir: Path, *, is_long: bool = False
    ) -> None:
        self.folder, self.model, self.model_dir = folder, model, model_dir
        self.is_long = is_long
        self.ids: dict[str, str] = {}
        self.sae = self.twin = self.words = self.low = self.replaced = ""

    def state(self) -> AppState:
        """A server with nothing in memory."""
        roots = (self.folder, self.model_dir.parent)
        return AppState(Settings(read_roots=roots, offline=True))

    async def make(self) -> None:
        """Run every test that claims are made of."""
        state = self.state()
        handle, names = self.model.handle, {str(self.model_dir)}
        state.models[handle] = ModelSlot(handle, self.model, names, state.settings, state.workers)
        load = partial(call, state, "load_sae", model=str(self.model_dir))
        for name, seed in (("sae", 0), ("twin", 1)):
            path = planted(self.folder / name, self.model, seed=seed)
            setattr(self, name, (await load(path=str(path)))["sae"])
        await self._run(state, self._calls())
        if self.is_long:
            await self._load_more(load)
            await self._run(state, self._more_calls())
            await self._replace_weights(state, load)
        state.keeper.settle()

    async def _run(self, state: AppState, calls: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
        for name, (tool, said) in calls.items():
            one = {} if "saes" in said else {"sae": self.sae}
            done = await call(state, tool, **(one | said))
            self.ids[name] = done["result_id"]

    async def _load_more(self, load: Any) -> None:
        low = save_random_sae(self.folder / "low", hook_name="blocks.1.hook_resid_post", seed=3)
        self.low = (await load(path=str(low)))["sae"]
        words = planted_sae(self.model).save(self.folder / "words")
        self.words = (await load(path=str(words)))["sae"]

    async def _replace_weights(self, state: AppState, load: Any) -> None:
        """The same test of one handle, before and after its file was written anew."""
        for name, seed in (("before", 5), ("after", 6)):
            path = planted(self.folder / "replaced", self.model, seed=seed)
            self.replaced = (await load(path=str(path)))["sae"]
            push = _push(prompt=PROMPTS[0], feature=WRITER, strength=STRONG, sae=self.replaced)
            await self._run(state, {f"{name} the change": ("intervene", push)})
            await call(state, "unload", handle=self.replaced)

    def _more_calls(self) -> dict[str, tuple[str, dict[str, Any]]]:
        push, text = partial(_push, feature=WRITER, strength=STRONG), PROMPTS[0]
        clamp = [{"feature": WRITER, "mode": "clamp", "strength": STRONG}]
        away = [{"feature": WRITER, "mode": "project_out"}]
        steer = {"features": [{"feature": WRITER, "strength": STRONG}], "unit": "raw"}
        steer |= {"max_new_tokens": 4}
        rng, king = random.Random(0), [" King"]
        kings, plain = ([sentence(rng, 10, w) for _ in range(12)] for w in (king, []))
        trace = {"saes": [self.low, self.sae], "prompt": text, "targets": [TOKEN], "wait_s": 50.0}
        push_range = partial(_push, feature=RANGED, prompt=ROAD)
        search = {"features": [{"feature": WRITER}], "concept": [TOKEN], "wait_s": 50.0}
        return {
            "another seed": ("intervene", push(prompt=text, seed=1)),
            "the prompt in other letters": ("intervene", push(prompt=f" {text.upper()}.")),
            "logit": ("intervene", push(prompt=text, measure="logit")),
            "clamped": ("intervene", push(prompt=text, edits=clamp)),
            "projected out": ("intervene", push(prompt=text, edits=away)),
            "any targets": ("intervene", push(prompts=PROMPTS, target="")),
            "weak alone": (
                "intervene",
                _push(prompt=text, feature=WEAK, strength=STRONG, n_controls=0),
            ),
            "sum": ("steer_generate", steer | {"prompt": text, "concept_tokens": [TOKEN, OTHER]}),
            "text": ("steer_generate", steer | {"prompt": text, "concept_tokens": [TOKEN]}),
            "table": (
                "steer_generate",
                steer
                | {"prompt": ROAD, "features": [{"feature": RANGED}], "concept_tokens": [TOKEN]}
                | {"strengths": [3.0, 6.0, 9.0, STRONG]},
            ),
            "the best strength": ("intervene", push_range(strength=15.0)),
            "search": ("find_features", {"causes": [TOKEN], "wait_s": 50.0}),
            "writers": ("find_features", {"tokens": [TOKEN]}),
            "strength": (
                "steer_search",
                search | {"prompts": PROMPTS[4:], "held_out": PROMPTS[:4], "max_new_tokens": 4},
            ),
            "measured": ("attribute_logit", {"prompt": text, "target": TOKEN, "k": 6}),
            "strongest": ("attribute_logit", {"prompt": text, "target": TOKEN, "k": 1}),
            "circuit": ("trace_circuit", trace | {"against": OTHER, "n_measured": 20}),
            "graph": ("trace_circuit", trace | {"n_measured": 0}),
            "contrast": ("find_features", {"sae": self.words, "texts": kings, "against": plain}),
            "pair": ("compare_prompts", {"a": text, "b": PROMPTS[3], "sae": self.low}),
            "concept": (
                "find_features",
                {
                    "causes": [TOKEN, OTHER],
                    "against": [" the", " to"],
                    "prompts": PROMPTS,
                    "wait_s": 50.0,
                },
            ),
        }

    def _calls(self) -> dict[str, tuple[str, dict[str, Any]]]:
        push = partial(_push, feature=WRITER, strength=STRONG)
        both = [*push()["edits"], {"feature": WEAK, "mode": "add", "strength": STRONG}]
        return {
            "one prompt": ("intervene", push(prompt=PROMPTS[0])),
            "another prompt": ("intervene", push(prompt=PROMPTS[1])),
            "many prompts": ("intervene", push(prompts=PROMPTS)),
            "no controls": ("intervene", push(prompt=PROMPTS[2], n_controls=0)),
            "few controls": ("intervene", push(prompt=PROMPTS[3], n_controls=5)),
            "other token": ("intervene", push(prompt=PROMPTS[0], target=OTHER)),
            "difference": ("intervene", push(prompt=PROMPTS[0], against=OTHER)),
            "other SAE": ("intervene", push(prompt=PROMPTS[0], sae=self.twin)),
            "both": ("intervene", push(prompt=PROMPTS[0], edits=both)),
            "weak": ("intervene", _push(prompt=PROMPTS[0], feature=WEAK, strength=STRONG)),
            "attributed": (
                "attribute_logit",
                {"prompt": PROMPTS[0], "target": TOKEN, "validate": False, "k": 30},
            ),
            "fires": ("top_features", {"text": PROMPTS[0], "k": 100}),
            "label": ("label_feature", {"feature": WRITER, "text": "and"}),
            "card": ("describe_feature", {"feature": WRITER}),
            **{
                f"chance {feature} at {strength:g}": (
                    "intervene",
                    _push(prompt=PROMPTS[0], feature=feature, strength=strength),
                )
                for feature in range(18, 25)
                for strength in ((3.0, 6.0, STRONG) if feature == CHANCE else (STRONG,))
            },
        }

    def keep(self, home: Path) -> None:
        """The ledger in the home of this test."""
        shutil.copytree(self.folder / "home" / "ledger", home / "ledger")


def recorded(
    folder: Path, model: LanguageModel, model_dir: Path, *, is_long: bool = False
) -> Record:
    """All of it made once, in a home of its own."""
    (folder / "home").mkdir()
    record = Record(folder, model, model_dir, is_long=is_long)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESCOPE_HOME", str(folder / "home"))
        anyio.run(record.make)
    return record


def _push(*, feature: int, strength: float, **said: Any) -> dict[str, Any]:
    edits = [{"feature": feature, "mode": "add", "strength": strength}]
    return {"edits": edits, "target": TOKEN, "unit": "raw"} | said
