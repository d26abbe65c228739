"""One site of a set in training: its buffer, the SAEs that are trained on it, and its own
checkpoints.

A site depends on nothing but the passes of the model, whose rows it takes one after another. So
each has checkpoints of its own, and one that is behind the others after a kill catches up by
passes that the others do not look at.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saescope import checkpoints as disk
from saescope.activations import ActivationStore, GivenRows, NeedRows
from saescope.activations.buffer import Rows
from saescope.errors import Cancelled, ConfigError, NumericError
from saescope.training.config import TrainConfig
from saescope.training.data import Rate, hooks_of, store_config
from saescope.training.firings import FiringCounts
from saescope.training.history import Point
from saescope.training.loggers import Log
from saescope.training.trainer import Batches, Trainer, started_with


class MemberProgress(NamedTuple):
    """How far one SAE of a set is, and its newest numbers."""

    name: str
    step: int
    n_tokens: int
    point: Point
    """The newest point of its history; empty before the first."""
    error: str = ""
    """Why it is not trained any further."""
    points: Sequence[Point] = ()
    """Its history, the newest point last; it grows."""
    firings: FiringCounts | None = None
    """How often its features fired between the last two points."""


class Feed(Batches):
    """The batches that a site has drawn and one of its SAEs has not been trained on."""

    def __init__(self) -> None:
        self.waiting = deque[Tensor | tuple[Tensor, Tensor]]()

    def __next__(self) -> Tensor | tuple[Tensor, Tensor]:
        if not self.waiting:
            raise NeedRows
        return self.waiting.popleft()

    def state_dict(self) -> dict[str, Any]:
        parts = [(x, x) if isinstance(x, Tensor) else x for x in self.waiting]
        return {
            f"{i}/{j}": part
            for i, pair in enumerate(parts)
            for j, part in enumerate(pair[: 1 if pair[0] is pair[1] else 2])
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.waiting.clear()
        while (x := state.get(f"{len(self.waiting)}/0")) is not None:
            y = state.get(f"{len(self.waiting)}/1")
            self.waiting.append(x if y is None else (x, y))


class Trainee:
    """One SAE of a set."""

    def __init__(self, name: str, cfg: TrainConfig, device: torch.device) -> None:
        self.name, self.feed = name, Feed()
        self.trainer = Trainer(cfg, self.feed, device=device)
        self.error: NumericError | None = None
        self.log: Log | None = None
        self.rate = Rate()

    @property
    def live(self) -> bool:
        """Whether there are steps left to take."""
        return self.error is None and self.trainer.step < self.trainer.cfg.n_steps

    @property
    def progress(self) -> MemberProgress:
        trainer = self.trainer
        point = trainer.history.points[-1] if trainer.history.points else {}
        error = self.error.message if self.error else ""
        return MemberProgress(
            self.name,
            trainer.step,
            trainer.n_tokens,
            point,
            error,
            points=trainer.history.points,
            firings=trainer.firings.last,
        )

    def drain(self, stop: threading.Event) -> None:
        """Take the steps that its batches allow.

        Raises:
            Cancelled: before a step, once `stop` is set.
        """
        started, before = time.monotonic(), self.trainer.n_tokens
        try:
            while self.live:
                if stop.is_set():
                    raise Cancelled("The run was asked to stop.")
                if self.trainer.advance() and self.log is not None:
                    self.log(self.trainer.step, self.trainer.history.points[-1])
        except NeedRows:
            pass
        except NumericError as error:
            self.fail(error)
        self.rate.add(time.monotonic() - started, self.trainer.n_tokens - before)

    def fail(self, error: NumericError) -> None:
        """Train no further; the others go on."""
        self.error = error
        self.feed.waiting.clear()


class TrainingSite:
    """One site's activations, mixed, and the SAEs that are trained on them."""

    def __init__(
        self,
        configs: Mapping[str, TrainConfig],
        widths: Mapping[str, int],
        *,
        device: torch.device,
        max_rows: int,
        fingerprint: str,
        stop: threading.Event,
    ) -> None:
        self.cfg = next(iter(configs.values()))
        self.hook_names = hooks_of(self.cfg)
        self.members = [Trainee(name, cfg, device) for name, cfg in configs.items()]
        self.source = GivenRows(widths, device=device, fingerprint=fingerprint, max_rows=max_rows)
        self.store = ActivationStore(self.source, store_config(self.cfg))
        self.stop, self.n_passes = stop, 0
        self.spent_s = 0.0
        """All the time that mixing and training have taken so far."""

    @property
    def done(self) -> bool:
        return not any(member.live for member in self.members)

    def take(self, rows: Rows) -> None:
        """Take the rows of one pass, and all the steps that they allow.

        Raises:
            Cancelled: between two steps, once the run was asked to stop; no row is lost.
        """
        if self.done:
            self.n_passes += 1
            return
        self.source.give(rows)
        self.n_passes += 1
        self.advance()

    def fail(self, error: NumericError) -> None:
        for member in self.members:
            if member.live:
                member.fail(error)

    def advance(self) -> None:
        """Take all steps that are possible before the next pass."""
        started = time.monotonic()
        try:
            while not self.done:
                for member in self.members:
                    member.drain(self.stop)
                batch = self._batch()
                for member in self.members:
                    if member.live:
                        member.feed.waiting.append(batch)
        except (NeedRows, StopIteration):
            pass
        finally:
            self.spent_s += time.monotonic() - started

    def _batch(self) -> Tensor | tuple[Tensor, Tensor]:
        rows = next(self.store)
        x, *y = (rows[name] for name in self.hook_names)
        return (x, y[0]) if y else x

    @property
    def clock(self) -> int:
        """Grows with everything that happens to the site."""
        return self.n_passes + sum(member.trainer.step for member in self.members)

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of the site and its SAEs; one that is no longer finite is given up."""
        tensors: dict[str, dict[str, Tensor]] = {"store": self.store.state_dict()}
        saved: dict[str, Any] = {}
        for place, member in enumerate(self.members):
            if member.error is None:
                try:
                    parts, saved[member.name] = member.trainer.checkpoint()
                    tensors |= {f"{place}-{file}": tables for file, tables in parts.items()}
                except NumericError as error:
                    member.fail(error)
            if member.error is not None:
                saved[member.name] = {
                    "error": member.error.message,
                    "step": member.trainer.step,
                    "config": member.trainer.cfg.to_dict(),
                }
        state = {"n_passes": self.n_passes, "members": saved}
        keep = self.cfg.keep_checkpoints
        return disk.save(folder, self.clock, disk.Checkpoint(tensors, state), keep=keep)

    def restore(self, saved: disk.Checkpoint) -> None:
        """Go on from a checkpoint of the same site.

        Raises:
            ConfigError: RESUME_MISMATCH, CHECKPOINT_MISMATCH: it is of other settings or text.
        """
        there: dict[str, Any] = saved.state["members"]
        if list(there) != [member.name for member in self.members]:
            raise ConfigError(
                f"The run at {self.hook_names[0]} was started with other SAEs: {list(there)}.",
                code="RESUME_MISMATCH",
                hint="Resume with the same configurations, or start a new run.",
            )
        for place, (member, state) in enumerate(zip(self.members, there.values(), strict=True)):
            started_with(state, member.trainer.cfg)
            if error := state.get("error"):
                member.trainer.step = state["step"]
                member.fail(NumericError(error, code="LOSS_NOT_FINITE"))
                continue
            own = {
                file.removeprefix(f"{place}-"): tables
                for file, tables in saved.tensors.items()
                if file.startswith(f"{place}-")
            }
            member.trainer.restore(disk.Checkpoint(own, state))
        self.store.load_state_dict(saved.tensors["store"])
        self.n_passes = saved.state["n_passes"]
