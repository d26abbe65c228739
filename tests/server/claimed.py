"""An SAE in which one feature writes a known token, and kept results of tests of it: some are good,
some show nothing."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

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

    def __init__(self, folder: Path, model: LanguageModel, model_dir: Path) -> None:
        self.folder, self.model, self.model_dir = folder, model, model_dir
        self.ids: dict[str, str] = {}
        self.sae = self.twin = ""

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
        for name, (tool, said) in self._calls().items():
            done = await call(state, tool, **({"sae": self.sae} | said))
            self.ids[name] = done["result_id"]
        state.keeper.settle()

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


def _push(*, feature: int, strength: float, **said: Any) -> dict[str, Any]:
    edits = [{"feature": feature, "mode": "add", "strength": strength}]
    return {"edits": edits, "target": TOKEN, "unit": "raw"} | said
