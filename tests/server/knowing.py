"""What the tests of index_features and of what rests on it share: a planted SAE on disk, texts, and
a state that has loaded both."""

import shutil
from pathlib import Path

from tests.core.features.planted import WORDS, corpus, planted_sae
from tests.server.helpers import call

from saescope.models import LanguageModel
from saescope.names import home
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.state.slots import ModelSlot

KING = WORDS.index(" King")


class Bench:
    """Files of one session: the SAE whose features fire on WORDS, a text in which these are at
    home, and the SAE's index of it."""

    def __init__(self, folder: Path, glass: LanguageModel) -> None:
        from saescope.features.index import index_features

        sae = planted_sae(glass)
        self.model = glass
        self.folder, self.sae, self.text = (
            folder,
            sae.save(folder / "planted"),
            folder / "tales.txt",
        )
        self.text.write_text("\n\n".join(corpus(400)), encoding="utf-8")
        index_features(
            glass, sae, str(self.text), n_tokens=12_000, context_size=64, root=folder / "indexes"
        )

    async def loaded(self, glass_dir: Path, *, indexed: bool) -> tuple[AppState, str]:
        """A new server of a user who has that index, or none; the SAE is loaded. The model is the
        one that all tests share."""
        if indexed:
            shutil.copytree(self.folder / "indexes", home() / "indexes")
        state = AppState(Settings(read_roots=(self.folder, glass_dir.parent), offline=True))
        handle, names = self.model.handle, {str(glass_dir)}
        state.models[handle] = ModelSlot(handle, self.model, names, state.settings, state.workers)
        reply = await call(state, "load_sae", path=str(self.sae), model=str(glass_dir))
        assert (reply["index"] is not None) is indexed
        return state, reply["sae"]
