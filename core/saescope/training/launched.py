"""A run in processes of its own, as `torchrun -m saescope.training FOLDER` starts them. What they
are told and what they tell lies in one folder that all of them see.

    ranks.json            what to train, on what
    checkpoints/          as of any run, by whatever number of processes
    progress.json         how far it is, a second old at most, and how it ended
    firings.safetensors   how often each feature fired between the last two points of the curve
    stop                  once it is there, the run stops with a checkpoint
    watched               changes every few seconds; once it does not, the run stops as well
    error.json            why it cannot go on
    sae/                  what was trained
"""

import json
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from saescope import errors
from saescope.errors import SaescopeError
from saescope.fence import Fence, fenced
from saescope.models import LanguageModel, load_model
from saescope.ranks import Ranks, here, joined
from saescope.training.config import TrainConfig
from saescope.training.data import hooks_of
from saescope.training.firings import FiringCounts
from saescope.training.history import Point
from saescope.training.machine import peak_bytes, use_threads
from saescope.training.run import TrainingRun
from saescope.training.trainer import stop_on_signals

RUN, PROGRESS, ERROR = "ranks.json", "progress.json", "error.json"
FIRINGS, STOP, WATCHED = "firings.safetensors", "stop", "watched"
SAE_FOLDER = "sae"
BEAT_S = 1.0
UNWATCHED_S = 120.0
"""A run of which nobody hears any more stops after this time: whoever resumes it must not meet it
at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedRun:
    """What the processes of a run are told."""

    config: dict[str, Any]
    """A `TrainConfig`, as its `to_dict` gives it."""
    model: str = ""
    """Hub name, folder or file; empty: the config's."""
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    up_to_site: bool = True
    """Whether only the layers that the run needs are read."""
    sink_factor: float | None = None
    """None: as models are loaded."""
    threads: int = 1
    roots: tuple[str, ...] = ()
    fence: tuple[str, ...] | None = None
    """Folders below which files may be opened; None: all."""

    def write(self, folder: Path) -> None:
        """Put it into the folder, for processes to be started on."""
        folder.mkdir(parents=True, exist_ok=True)
        _put(folder / RUN, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "LaunchedRun":
        return cls(**json.loads((folder / RUN).read_text(encoding="utf-8")))

    def load(self) -> LanguageModel:
        cfg = TrainConfig.from_dict(self.config)
        names = [name] if (name := self.model or cfg.model) else []
        device = self.device
        if not here().alone and torch.cuda.is_available() and device in ("auto", "cuda"):
            device = f"cuda:{torch.cuda.current_device()}"  # each rank has its own
        up_to = hooks_of(cfg) if self.up_to_site else ()
        model = load_model(
            *names, device=device, dtype=self.dtype, offline=self.offline, up_to=up_to
        )
        if self.sink_factor is not None:
            model.sink_factor = self.sink_factor
        return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a launched run is."""

    state: str = "starting"
    """starting, running, then done or stopped."""
    step: int = 0
    n_steps: int = 0
    n_tokens: int = 0
    n_received: int = 0
    """Positions read so far."""
    eta_s: float | None = None
    n_ranks: int = 0
    rank_bytes: tuple[int, ...] = ()
    """The most memory that each rank's process has held, once it has ended."""
    points: tuple[Point, ...] = ()
    warnings: tuple[str, ...] = ()
    model: dict[str, str] = field(default_factory=dict[str, str])
    """Its name, handle, revision, dtype and device."""
    weights_hash: str = ""
    """The hash of the trained SAE's weights."""

    @classmethod
    def read(cls, folder: Path) -> "Progress":
        """The newest; that of a run that has not begun where there is none."""
        try:
            said = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        return cls(**{name: _frozen(value) for name, value in said.items()})


def main(words: list[str]) -> int:
    """What each process runs; the exit status is 0 where a restart would change nothing."""
    folder = Path(words[0])
    if (folder / ERROR).exists():
        return 0
    with joined() as ranks, stop_on_signals() as stop:
        try:
            work(folder, ranks, stop)
        except SaescopeError as error:
            sys.stderr.write(f"{error.code}: {error.message}\n")
            _put(folder / ERROR, _told(error))
    return 0


def work(folder: Path, ranks: Ranks, stop: threading.Event) -> None:
    """Train to the end or to a stop, together with the other ranks."""
    run = LaunchedRun.read(folder)
    use_threads(run.threads)
    cfg = TrainConfig.from_dict(run.config)
    with fenced(None if run.fence is None else Fence.around(map(Path, run.fence))):
        where: Any = {"folder": folder / "checkpoints", "roots": [*map(Path, run.roots)]}
        training = TrainingRun(cfg, run.load(), stop=stop, **where)
        with _told_of(training, folder, ranks):
            state = training.go().state
        ended = ranks.each(peak_bytes(training.model.device))
        if ranks.writes:
            trained = training.save_sae(folder / SAE_FOLDER) if state == "done" else None
            last = _progress(training, ranks, state) | {"rank_bytes": ended}
            last["weights_hash"] = trained.weights_hash if trained else ""
            _put(folder / PROGRESS, last)


def firings_of(folder: Path) -> FiringCounts | None:
    """How often each feature fired between the last two points; None before the second."""
    try:
        said = load_file(folder / FIRINGS)
    except FileNotFoundError:
        return None
    return FiringCounts(said["counts"], int(said["n_tokens"]))


def raise_error(folder: Path) -> None:
    """Raises what a run could not go on for."""
    if not (folder / ERROR).exists():
        return
    said = json.loads((folder / ERROR).read_text(encoding="utf-8"))
    kind = getattr(errors, said.pop("kind"))
    raise kind(said.pop("message"), **said)


@contextmanager
def _told_of(training: TrainingRun, folder: Path, ranks: Ranks) -> Generator[None]:
    """Tell how far the run is, and look for a request to stop, while the block runs: on the first
    rank; the others hear of a stop from it."""
    if not ranks.writes:
        yield
        return
    ended = threading.Event()

    def beat() -> None:
        told: FiringCounts | None = None
        watch = _Watch(folder)
        while not ended.wait(BEAT_S):
            if (folder / STOP).exists() or watch.is_over:
                training.stop.set()
            last = training.trainer.firings.last
            if last is not None and last is not told:
                _put_firings(folder, last)
                told = last
            _put(folder / PROGRESS, _progress(training, ranks, "running"))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Watch:
    """Whether the run is still watched, by this process's own clock; one that nobody ever watched
    goes on."""

    def __init__(self, folder: Path) -> None:
        self.path, self.seen, self.seen_at = folder / WATCHED, "", time.monotonic()

    @property
    def is_over(self) -> bool:
        try:
            now = self.path.read_text(encoding="utf-8")
        except OSError:
            return False
        if now != self.seen:
            self.seen, self.seen_at = now, time.monotonic()
        return time.monotonic() - self.seen_at > UNWATCHED_S


def _progress(training: TrainingRun, ranks: Ranks, state: str) -> dict[str, Any]:
    trainer, model = training.trainer, training.model
    names = ("name", "handle", "revision", "device")
    told = {name: str(getattr(model, name)) for name in names}
    return asdict(
        Progress(
            state=state,
            step=trainer.step,
            n_steps=trainer.cfg.n_steps,
            n_tokens=trainer.n_tokens,
            n_received=training.store.n_received,
            eta_s=training.eta_s(),
            n_ranks=ranks.size,
            points=tuple(trainer.history.points),
            warnings=tuple(training.warnings),
            model=told | {"dtype": str(model.dtype).removeprefix("torch.")},
        )
    )


def _told(error: SaescopeError) -> dict[str, Any]:
    names = ("message", "code", "field", "got", "allowed", "hint")
    said = {name: getattr(error, name) for name in names}
    return {"kind": type(error).__name__} | {name: value for name, value in said.items() if value}


def _put(path: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all: others read it at any time."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(json.dumps(document), encoding="utf-8")
    aside.replace(path)


def _put_firings(folder: Path, last: FiringCounts) -> None:
    aside = folder / f".{FIRINGS}"
    counts = {"counts": last.counts.cpu(), "n_tokens": torch.tensor(last.n_tokens)}
    save_file(counts, aside)
    aside.replace(folder / FIRINGS)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
