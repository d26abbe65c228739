"""For every test: one torch thread, no network, and a home folder of its own. Models are loaded
once."""

import gc
import itertools
import os
import socket
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests import shapes
from tests.core.fake_hub import FakeHub
from tests.longest import LONGEST, SHARING

if TYPE_CHECKING:
    from tests.server.knowing import Bench

    from saescope.models import LanguageModel
    from saescope.saes import SAE

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
}

DATA = Path(__file__).parent / "data"


shapes.set_up()
gc.disable()


RELATIVES = {"glass", "gemma3", "llama", "qwen3", "gpt_neox"}
"""Families that resemble one of the others: `make test` tries gpt2, gemma2 and neox, the slow tier
these too."""
KINDS = ("gpt2", "gemma2", "neox")
MOST_CASES = 2
ENOUGH = 2
"""The slow tier tries a case whose values of parameters, each by itself, were tried less often than
this; the rest is marked `thorough`."""
OTHER_TIERS = ("attack", "network", "gpu", "clients")
"""What these mark stays there: none of it is for the slow tier."""
EVERY_PAIR = ("test_hooks.py", "test_language_model.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: of several processes, none is left alone with one at the end."""
    seen = set[tuple[object, str]]()
    ours = [item for item in items if not any(map(item.get_closest_marker, OTHER_TIERS))]
    for item in ours:
        drawn = getattr(item, "callspec", None)
        if drawn and (_is_relative(drawn) or _is_another_pair(item, drawn.id, seen)):
            item.add_marker(pytest.mark.slow)
    for item in _of_many_cases(ours):
        item.add_marker(pytest.mark.slow)
    for item in _of_values_tried_enough(ours):
        item.add_marker(pytest.mark.thorough)
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def _is_relative(drawn: Any) -> bool:
    return bool(RELATIVES & {value for value in drawn.params.values() if type(value) is str})


def _is_another_pair(item: pytest.Item, case: str, seen: set[tuple[object, str]]) -> bool:
    """Of a family's model and an SAE, a site or a setting, `make test` tries each with some other;
    the slow tier tries every pair. What reads a site differs by family: all of that is tried."""
    family = next((kind for kind in KINDS if kind in case.split("-")), None)
    if family is None or item.path.name in EVERY_PAIR or item.get_closest_marker("slow"):
        return False
    test = item.nodeid.partition("[")[0]
    pair = {(test, family), (test, case.replace(family, "", 1))}
    is_known = pair <= seen
    seen |= pair
    return is_known


def _of_many_cases(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Of a test with very many cases, `make test` tries some from all over them."""
    cases = defaultdict[str, list[pytest.Item]](list)
    for item in items:
        if not item.get_closest_marker("slow"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for each in cases.values():
        for i, item in enumerate(each):
            if i and i * MOST_CASES // len(each) == (i - 1) * MOST_CASES // len(each):
                yield item


def _of_values_tried_enough(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Slow cases that only join what others have tried: of eight families with eight kinds of SAE,
    each family and each kind is tried twice at least, not every family with every kind."""
    tried = Counter[tuple[str, int, str]]()
    for item in sorted(items, key=lambda item: bool(item.get_closest_marker("slow"))):
        drawn = getattr(item, "callspec", None)
        if not drawn:
            continue
        test = item.nodeid.partition("[")[0]
        values = [(test, i, value) for i, value in enumerate(drawn.id.split("-"))]
        if item.get_closest_marker("slow") and min(tried[value] for value in values) >= ENOUGH:
            yield item
        else:
            tried.update(values)


def pytest_collection_finish() -> None:
    """Modules and tests stay until the end: no collection of garbage looks at them again."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: tests that wait for a server or a worker leave their core to
    another. With one more still it takes as long, and the slow tier more memory."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A process runs a whole file of tests; those that share something costly count as one file. In
    the slow tier each of them takes minutes."""
    from xdist.scheduler import LoadFileScheduling

    together = SHARING if "not slow" in str(config.getoption("markexpr")) else ()

    class Sharing(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid).removeprefix("tests/")
            return next((first for first, *rest in together if file in rest), file)

    return Sharing(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Numbered names of folders for homes. `mktemp` lists all that it made before, for each."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_home(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """`SAESCOPE_HOME` for this test and the processes that it starts: empty, but for the models
    that are already prepared."""
    from saescope.names import home

    models, own = home() / "models", next(homes)
    own.mkdir()
    if models.is_dir():
        _link(own / "models", models)
    monkeypatch.setenv("SAESCOPE_HOME", str(own))
    return own


def _link(link: Path, folder: Path) -> None:
    if os.name == "nt":  # a symbolic link needs a privilege there, a junction does not
        import _winapi

        getattr(_winapi, "CreateJunction")(str(folder), str(link))  # noqa: B009
    else:
        link.symlink_to(folder, target_is_directory=True)


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine may be connected to, except by tests marked `network`."""
    if request.node.get_closest_marker("network"):
        monkeypatch.delenv("HF_HUB_OFFLINE")
        return
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(
                f"A test tried to reach {address}: mark it `network` or give it a local answer."
            )
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub on loopback, and an empty cache."""
    import huggingface_hub.constants
    from huggingface_hub.utils import close_session

    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    close_session()
    yield fake
    close_session()
    fake.close()


@pytest.fixture(scope="session")
def glass_dir() -> Path:
    """A real Llama of 0.85M parameters (4 layers, d_model 128, vocabulary 1024, context 128)."""
    return DATA / "glassllm-en"


@pytest.fixture(scope="session")
def glass(glass_dir: Path) -> "LanguageModel":
    from saescope.models import load_model

    return load_model(str(glass_dir), device="cpu")


@pytest.fixture(scope="session")
def smollm() -> "LanguageModel":
    """The embedded model; only for tests marked `model`."""
    from saescope.embedded import is_ready
    from saescope.models import load_model

    if not is_ready():
        pytest.fail(
            "The embedded model is not in the cache: run `make test`, or python "
            "scripts/prepare_model.py first.",
            pytrace=False,
        )
    return load_model(device="cpu")


@pytest.fixture(scope="session")
def embedded_sae() -> "SAE":
    from saescope.load import load_sae

    return load_sae(device="cpu")


@pytest.fixture(scope="session")
def bench(glass: "LanguageModel", tmp_path_factory: pytest.TempPathFactory) -> "Bench":
    """An SAE whose features fire on known words, and its index."""
    from tests.server.knowing import Bench

    return Bench(tmp_path_factory.mktemp("bench"), glass)
