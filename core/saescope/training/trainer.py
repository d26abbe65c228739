"""The training loop: batches in, an SAE out; stops, resumes and fails without losing more than one
interval."""

import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from saescope import checkpoints as disk
from saescope.errors import ConfigError, NumericError
from saescope.precision import fetched
from saescope.progress import Report
from saescope.ranks import ALONE, Ranks
from saescope.saes import SAE
from saescope.sharding import Cut
from saescope.training.config import TrainConfig
from saescope.training.firings import FiringCounter
from saescope.training.history import History, Point, measure
from saescope.training.loggers import make_log
from saescope.training.objective import Batch, Coefficients, initial_params
from saescope.training.optimizer import Adam, normalize_rows, remove_parallel
from saescope.training.pace import Pace
from saescope.training.parts import own_part, summed
from saescope.training.result import finished_sae
from saescope.training.revival import Deadness, resample
from saescope.training.scaling import CENTRES, Scaling, estimate
from saescope.training.schedules import learning_rate, warmed_up
from saescope.training.shares import require_shares
from saescope.training.split import OF_ALL, Split
from saescope.training.start import fit_start
from saescope.training.steps import BatchTopKStep, StepResult, make_step

State = Literal["done", "stopped", "exhausted"]


@runtime_checkable
class Batches(Protocol):
    """Yields batches: [n, d_in], or a pair of input and output activations for a transcoder; its
    position can be saved."""

    def __next__(self) -> Tensor | tuple[Tensor, Tensor]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TrainingProgress(NamedTuple):
    """How far a run is, and its latest numbers."""

    state: State | Literal["running"]
    step: int
    n_steps: int
    n_tokens: int
    point: Point
    """The newest point of the history; empty before the first."""


class Trainer:
    """One SAE in training. `folder` holds its checkpoints; without it nothing is written.

    Raises:
        ConfigError: `folder` has checkpoints of a run already: that one can be resumed.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        batches: Batches,
        *,
        folder: Path | None = None,
        device: str | torch.device = "cpu",
        ranks: Ranks = ALONE,
    ) -> None:
        self.cfg, self.batches, self.folder = cfg, batches, folder
        self.split = split = split_of(cfg, ranks)
        self.device = torch.device(device)
        start = initial_params(
            cfg.objective,
            seed=cfg.seed,
            decoder_init_norm=float(cfg.decoder_init_norm),
            jumprelu_init_threshold=float(cfg.jumprelu_init_threshold),
            ranks=split.features,
        )
        self.params = {name: tensor.to(self.device) for name, tensor in start.items()}
        if cfg.decoder_norm == "unit":
            normalize_rows(self.params["decoder"])
        self.compute = make_step(cfg.objective, self.params, split)
        if isinstance(self.compute, BatchTopKStep):
            self.compute.threshold_lr = max(BatchTopKStep.threshold_lr, min(1.0, 10 / cfg.n_steps))
        betas = {"beta1": float(cfg.adam_beta1), "beta2": float(cfg.adam_beta2)}
        self.adam = Adam(self.params, **betas, ranks=split.features)
        d_sae = len(self.params["encoder"])
        self.deadness = Deadness(d_sae, cfg.chosen.dead_feature_window, self.device)
        self.firings = FiringCounter(d_sae, self.device, split.features)
        self.generator = torch.Generator().manual_seed(cfg.seed)
        self.scaling: Scaling | None = None
        self.history = History(cfg.chosen.log_every)  # a long run thins its points as it goes
        self.pace = (
            Pace(cfg.objective, target=cfg.l0, n_steps=cfg.n_steps, device=self.device)
            if cfg.steered
            else None
        )
        self.step, self.n_tokens = 0, 0
        self._pending: deque[Batch] = deque()
        """Batches that scaling and start were estimated on and that still have to be trained on."""
        if folder is not None and disk.latest(folder) is not None:
            raise ConfigError(
                f"{folder.name} already has the checkpoints of a run.",
                code="FOLDER_IN_USE",
                field="folder",
                hint="Resume that run, or choose another folder.",
            )
        if folder is not None and ranks.writes:
            disk.clean(folder)

    @classmethod
    def resume(
        cls,
        folder: Path,
        batches: Batches,
        *,
        cfg: TrainConfig | None = None,
        device: str | torch.device = "cpu",
        ranks: Ranks = ALONE,
    ) -> "Trainer":
        """Go on from the newest good checkpoint.

        Raises:
            NotFoundError: there is no checkpoint.
            ConfigError: `cfg` is given and differs from what the run was started with.
        """
        if cfg is None:  # which tensors are cut it says
            cfg = started_with(disk.load_latest(folder, cut=Cut(ranks, lambda name: False)).state)
        saved = disk.load_latest(folder, cut=cut_of(split_of(cfg, ranks)))
        trainer = cls(started_with(saved.state, cfg), batches, device=device, ranks=ranks)
        trainer.folder = folder
        if ranks.writes:
            disk.clean(folder)
        trainer.restore(saved)
        return trainer

    def run(
        self,
        *,
        stop: threading.Event | None = None,
        report: Report[TrainingProgress] | None = None,
    ) -> TrainingProgress:
        """Train to the end, or until `stop` is set; either way the last checkpoint is of the last
        step.

        Raises:
            ResourceError: the disk is full (DISK_FULL); the last good checkpoint is untouched.
            NumericError: the loss is no longer finite; the last good checkpoint is from before.
        """
        ranks = self.split.ranks
        log = make_log(self.cfg, self.folder) if ranks.writes else None
        schedule, state = disk.Schedule(float(self.cfg.checkpoint_every_s)), "done"
        while self.step < self.cfg.n_steps:
            # Clocks and signals differ: all ranks stop at the same step, and save at the same one.
            stopped, due = ranks.any(
                stop is not None and stop.is_set(), ranks.writes and schedule.due
            )
            if due:
                self.save()
                schedule.saved()
            if stopped:
                state = "stopped"
                break
            try:
                batch = self._next()
            except StopIteration:
                state = "exhausted"
                break
            if self._train(batch):
                if log is not None:
                    log(self.step, self.history.points[-1])
                if report is not None:
                    report(self.progress("running"))
        self.save()
        return self.progress(state)

    def advance(self) -> bool:
        """Take one step; whether it added a point to the history. What the batches raise when they
        have none passes through, and leaves everything as it was."""
        return self._train(self._next())

    def progress(self, state: State | Literal["running"]) -> TrainingProgress:
        return TrainingProgress(
            state,
            self.step,
            self.cfg.n_steps,
            self.n_tokens,
            self.history.points[-1] if self.history.points else {},
        )

    def result(self) -> SAE:
        """Return the SAE as it is now, for raw activations."""
        threshold = self.compute.threshold if isinstance(self.compute, BatchTopKStep) else 0.0
        params = {
            name: tensor.cpu() if name in OF_ALL else self.split.features.together(tensor.cpu())
            for name, tensor in self.params.items()
        }
        return finished_sae(
            self.cfg,
            params,
            (self.scaling or Scaling()).to(torch.device("cpu")),
            threshold=threshold,
        )

    def _next(self) -> Batch:
        if self.scaling is None:
            self.scaling = self._estimate()
        return self.scaling(self._pending.popleft() if self._pending else self._fetch())

    def _estimate(self) -> Scaling:
        """Estimate the scaling; this also moves the start to where the first batches are."""
        wanted = min(self.cfg.n_batches_for_norm_estimate, self.cfg.n_steps)
        with suppress(StopIteration):  # a short source is found out when it is trained on
            while len(self._pending) < wanted:
                self._pending.append(self._fetch())
        if not self._pending:
            raise StopIteration
        scaling = estimate(self.cfg, self._pending).to(self.device)
        fit_start(
            self.params,
            self.cfg.objective,
            [scaling(batch) for batch in self._pending],
            l0=self.cfg.l0,
        )
        return scaling

    def _fetch(self) -> Batch:
        given = next(self.batches)
        x, y = (given, given) if isinstance(given, Tensor) else given
        if x.shape[-1] != self.cfg.d_in or y.shape[-1] != self.cfg.chosen.d_out or len(x) != len(y):
            raise ConfigError(
                f"A batch has shapes {tuple(x.shape)} -> {tuple(y.shape)}; this run "
                f"maps {self.cfg.d_in} to {self.cfg.chosen.d_out}.",
                code="DIM_MISMATCH",
            )
        x = x.to(self.device, torch.float32)
        return Batch(x, x if y is given else y.to(self.device, torch.float32))

    def _train(self, batch: Batch) -> bool:
        """One step; whether it added a point to the history."""
        cfg, chosen = self.cfg, self.cfg.chosen
        sparsity = (
            self.pace.coefficient
            if self.pace
            else warmed_up(
                self.step, value=cfg.sparsity_coefficient, warm_up=chosen.sparsity_warm_up_steps
            )
        )
        rate = learning_rate(
            self.step,
            n_steps=cfg.n_steps,
            peak=chosen.lr,
            warm_up=chosen.lr_warm_up_steps,
            decay=chosen.lr_decay_steps,
            shape=cfg.lr_scheduler,
        )
        result = self.compute(
            own_part(batch, self.split.positions),
            coefficients=Coefficients(sparsity, cfg.revival_coefficient),
            dead=self.deadness.dead if self.compute.objective.revives else None,
        )
        result = summed(result, self.split.positions)
        self.deadness.update(result.fired)
        self.firings.add(result.fired, len(batch.x))
        if self.pace:
            self.pace.update(result.fired.sum(), len(batch.x))
        if cfg.decoder_norm == "unit":
            remove_parallel(result.grads["decoder"], self.params["decoder"])
        norm = self.adam.step(result.grads, lr=rate, max_grad_norm=float(cfg.max_grad_norm))
        if cfg.decoder_norm == "unit":
            normalize_rows(self.params["decoder"])
        self.step += 1
        self.n_tokens += len(batch.x)
        self._resample(batch, result)
        if not self.history.due(self.step, cfg.n_steps):
            return False
        self._record(
            measure(batch, self._of_all(result), dead=self._all_dead()),
            rate,
            float(sparsity),
            float(norm),
        )
        self._look_ahead()
        return True

    def _of_all(self, result: StepResult) -> StepResult:
        return result._replace(fired=self.split.features.together(result.fired))

    def _all_dead(self) -> Bool[Tensor, " d_sae"]:
        return self.split.features.together(self.deadness.mask)

    def _look_ahead(self) -> None:
        """Ask the device, which the point was waited for anyway, what the steps up to the next one
        are chosen by: they wait for nothing."""
        self.compute.settle()
        if self.compute.objective.revives:
            self.deadness.look_ahead(self.history.every)

    def _resample(self, batch: Batch, result: StepResult) -> None:
        objective, every = self.cfg.objective, self.cfg.chosen.resample_every
        last_round = self.cfg.n_steps - max(
            self.cfg.chosen.lr_decay_steps, every
        )  # later ones could not settle
        if objective.revival == "resample" and self.step % every == 0 and self.step <= last_round:
            resample(
                self.adam,
                self.deadness,
                batch,
                result,
                objective=objective,
                generator=self.generator,
            )

    def _record(self, point: Point, rate: float, sparsity: float, norm: float) -> None:
        self._require_finite(point["loss"] + norm)
        self.firings.close()
        self.history.add(
            {"step": self.step, "n_tokens": self.n_tokens}
            | point
            | {"lr": rate, "sparsity_coefficient": sparsity}
        )

    def _require_finite(self, value: float) -> None:
        if not abs(value) < float("inf"):
            raise NumericError(
                f"The loss is no longer finite at step {self.step}.",
                code="LOSS_NOT_FINITE",
                field="lr",
                got=self.cfg.chosen.lr,
                hint="Start a new run with a lower lr, or a smaller penalty.",
            )

    def save(self) -> Path | None:
        """Write a checkpoint of this moment; None without a folder."""
        if self.folder is None:
            return None
        keep, cut = self.cfg.keep_checkpoints, cut_of(self.split)
        return disk.save(self.folder, self.step, self.checkpoint(), keep=keep, cut=cut)

    def checkpoint(self) -> disk.Checkpoint:
        """All that decides the steps to come.

        Raises:
            NumericError: the weights are no longer finite.
        """
        self._require_finite(sum(fetched(*(tensor.sum() for tensor in self.params.values()))))
        source, source_plain = disk.split_state(self.batches.state_dict())
        pending = {
            f"{i}.{part}": tensor
            for i, batch in enumerate(self._pending)
            for part, tensor in _parts(batch).items()
        }
        tensors = {
            "sae": dict(self.params),
            "optim": self.adam.state(),
            "trainer": {"idle": self.deadness.idle, "rng": self.generator.get_state()}
            | (self.scaling.whitening | self.scaling.centres if self.scaling else {}),
            "source": source,
            "pending": pending,
        }
        return disk.Checkpoint(tensors, self._plain_state() | {"source": source_plain})

    def _plain_state(self) -> dict[str, Any]:
        factors = [self.scaling.factor_in, self.scaling.factor_out] if self.scaling else []
        return {
            "config": self.cfg.to_dict(),
            "chosen": self.cfg.chosen._asdict(),
            "config_hash": self.cfg.hash,
            "step": self.step,
            "n_tokens": self.n_tokens,
            "scaling": factors,
            "compute": self.compute.state(),
            "pace": self.pace.state() if self.pace else {},
            "history": {"every": self.history.every, "points": self.history.points},
            "versions": {"torch": str(torch.__version__), "threads": torch.get_num_threads()},
        }

    def restore(self, saved: disk.Checkpoint) -> None:
        """Go on from a checkpoint of the same settings."""
        state, trainer = saved.state, dict(saved.tensors["trainer"])
        for name, tensor in saved.tensors["sae"].items():
            self.params[name].copy_(tensor)
        self.adam.load_state(saved.tensors["optim"])
        self.deadness.load(trainer.pop("idle"))
        self.generator.set_state(trainer.pop("rng"))
        centres = {name: trainer.pop(name) for name in CENTRES if name in trainer}
        self.scaling = (
            Scaling(*state["scaling"], whitening=trainer, centres=centres).to(self.device)
            if state["scaling"]
            else None
        )
        self.compute.load_state(state["compute"])
        if self.pace:
            self.pace.load_state(state["pace"])
        self.history.every, self.history.points = (
            state["history"]["every"],
            state["history"]["points"],
        )
        self.step, self.n_tokens = state["step"], state["n_tokens"]
        self._pending = _pending(saved.tensors.get("pending", {}), self.device)
        self.batches.load_state_dict(
            disk.join_state(saved.tensors.get("source", {}), state["source"])
        )


def split_of(cfg: TrainConfig, ranks: Ranks) -> Split:
    """How ranks share a run of these settings.

    Raises:
        ConfigError: they cannot.
    """
    require_shares(cfg, ranks.size)
    return Split(features=ranks) if cfg.shard_features else Split(positions=ranks)


def cut_of(split: Split) -> Cut:
    """The tensors of a checkpoint of which each rank has rows: its share of the buffer's places,
    and where ranks have features all that has a row for each."""

    def rows_of(name: str) -> bool:
        file, _, tensor = name.partition(disk.WITHIN)
        if file == "source":
            return tensor.startswith("buffer/table/")
        if split.features.alone or tensor.startswith("steps."):
            return False
        own = file in ("sae", "optim") and tensor.rpartition(".")[2] not in OF_ALL
        return own or (file, tensor) == ("trainer", "idle")

    return Cut(split.ranks, rows_of)


def started_with(state: Mapping[str, Any], cfg: TrainConfig | None = None) -> TrainConfig:
    """The settings of the run whose saved state this is: what was chosen at its start holds,
    whatever another version would choose now.

    Raises:
        ConfigError: RESUME_MISMATCH: `cfg` is given, and is another one.
    """
    asked = cfg or TrainConfig.from_dict(state["config"])
    started = TrainConfig.from_dict(state["config"] | state.get("chosen", {}))
    now, then = asked.complete, started.complete
    if cfg is not None and now != then:
        raise ConfigError(
            "The run was started with other settings: "
            f"{ {name: then[name] for name in then if then[name] != now[name]} }.",
            code="RESUME_MISMATCH",
            hint="Resume without settings, or start a new run.",
        )
    return asked if now == then else started


def _parts(batch: Batch) -> dict[str, Tensor]:
    return {"x": batch.x} if batch.y is batch.x else {"x": batch.x, "y": batch.y}


def _pending(tensors: Mapping[str, Tensor], device: torch.device) -> deque[Batch]:
    pending: deque[Batch] = deque()
    while (x := tensors.get(f"{len(pending)}.x")) is not None:
        x, y = x.to(device), tensors.get(f"{len(pending)}.y")
        pending.append(Batch(x, x if y is None else y.to(device)))
    return pending


@contextmanager
def stop_on_signals(*signals: signal.Signals) -> Generator[threading.Event]:
    """An event that SIGTERM and SIGINT (by default) set instead of killing the process; main thread
    only."""
    stop = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {sig: signal.signal(sig, handle) for sig in signals or (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


class ListBatches(Iterator[Tensor | tuple[Tensor, Tensor]]):
    """Batches held in memory, for small runs and tests."""

    def __init__(self, batches: list[Tensor] | list[tuple[Tensor, Tensor]]) -> None:
        self.batches, self.position = batches, 0

    def __next__(self) -> Tensor | tuple[Tensor, Tensor]:
        if self.position >= len(self.batches):
            raise StopIteration
        self.position += 1
        return self.batches[self.position - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]
