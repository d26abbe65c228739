"""`python -m saescope_mcp.worker JOB_ID`: one training run in a process of its own, from its row in the table of jobs to a saved SAE.

    starting -> measuring -> waiting for its turn -> training -> done
                    |                 |                 |-> failed: its last checkpoint stays, a resume goes on from there
                    '-> done (dry run)'-----------------'-> cancelled, interrupted (SIGTERM): with a complete checkpoint

torch is imported once the run's turn has come. Whoever holds the run's lock is its worker; there is never a second one.
"""

import os
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saescope.cancel import cancellable
from saescope.errors import Cancelled, ResourceError, SaescopeError
from saescope.names import home
from saescope_mcp.jobs import FileLock, Run, Runs
from saescope_mcp.schemas.train import TrainSae
from saescope_mcp.state import Placement, Source
from saescope_mcp.state.sources import KnownHandles
from saescope_mcp.tool import next_call, refusal
from saescope_mcp.tool.facts import versions

if TYPE_CHECKING:
    from saescope.models import LanguageModel
    from saescope.training import TrainConfig, TrainingRun
    from saescope.training.trainer import Point

NICE = 10
LOCK_WAIT_S = 5.0
HEARTBEAT_S = 1.0
FINAL_TRIES = 5
HISTORY_POINTS = 20
SECOND_WORKER = 3
"""Exit status of a worker that finds another one at work."""


def main(words: list[str]) -> int:
    """Work on one run until it ends or is asked to stop."""
    runs, run_id = Runs(home() / "jobs"), words[0]
    lock = runs.lock(run_id)
    if not lock.take(within_s=LOCK_WAIT_S):
        return SECOND_WORKER
    with lock:
        run = runs.table.get(run_id)
        if run is None or not run.live:
            return 0
        stop = threading.Event()
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, lambda *_: stop.set())
        if hasattr(os, "nice"):
            os.nice(max(0, NICE - os.nice(0)))
        Worker(runs, run, stop).work()
    return 0


class Worker:
    """One run's life. A thread keeps its row fresh and looks for a request to stop."""

    def __init__(self, runs: Runs, run: Run, stop: threading.Event) -> None:
        self.runs, self.run, self.stop = runs, run, stop
        self.training: TrainingRun | None = None
        self.message = "starting"
        self._ended = threading.Event()
        self._writing = threading.Lock()

    def work(self) -> None:
        """Never raises; how it ended is in the row."""
        beat = threading.Thread(target=self._beat, daemon=True)
        beat.start()
        try:
            changes = self._work()
        except Cancelled:
            changes = self._stopped()
        except Exception as error:
            changes = {"state": "failed", "message": "failed", "error": self._refusal(error)}
        self._ended.set()
        beat.join()
        last: dict[str, Any] = {"ended": time.time()} | self._progress() | changes
        for _ in range(FINAL_TRIES):
            if self._write(**last):
                return
            time.sleep(HEARTBEAT_S)

    def _work(self) -> dict[str, Any]:
        if not self.run.plan:
            with cancellable(self.stop):
                self._plan()
            if self.run.dry_run:
                return {"state": "done", "message": "planned"}
        with self._turn():
            self._write(state="running", phase="training", started=time.time())
            return self._train()

    def _plan(self) -> None:
        """Measure, write down the configuration and the plan, and refuse a run that does not fit."""
        from saescope.training import make_plan
        from saescope.training.machine import n_threads

        self._say("loading the model", phase="measuring")
        model = self._model()
        cfg = self._config(model)
        self._say("measuring the speed on this machine")
        plan = make_plan(cfg, model, folder=self.runs.root, roots=self._roots)
        said = {name: value for name, value in asdict(plan).items() if name != "warnings"}
        said |= {"n_steps": cfg.n_steps, "d_in": cfg.d_in, "d_sae": cfg.d_sae, "context_size": cfg.context_size}
        said |= {"lr": cfg.learning_rate, "device": str(model.device)}
        self.run = replace(self.run, config=cfg.to_dict() | {"threads": n_threads()}, plan=said, warnings=plan.warnings)
        self._write(config=self.run.config, plan=said, warnings=plan.warnings)
        if not plan.fits and not self.run.dry_run:
            raise does_not_fit(said)

    def _turn(self) -> FileLock:
        """Held by the run that trains. While another one does, this process gives up its memory: it begins anew, and waits."""
        turn = self.runs.turn
        if not self._is_next() or not turn.take():
            if "torch" in sys.modules:
                self._ended.set()
                self._write(phase="waiting", message="waiting for its turn", heartbeat=time.time())
                os.execv(sys.executable, [sys.executable, "-P", "-m", "saescope_mcp.worker", self.run.id])
            self._say("waiting for its turn", phase="waiting")
            while not (self._is_next() and turn.take()):
                if self.stop.wait(HEARTBEAT_S / 2):
                    raise Cancelled("Asked to stop while it waited.")
        return turn

    def _is_next(self) -> bool:
        """Nobody who waits came earlier."""
        waiting = [run for run in self.runs.all() if run.live and run.phase == "waiting"]
        return not any(run.queued < self.run.queued for run in waiting)

    def _train(self) -> dict[str, Any]:
        from saescope.training import TrainConfig, TrainingRun
        from saescope.training.machine import use_threads

        said = dict(self.run.config)
        use_threads(said.pop("threads"))
        self._say("loading the model")
        with cancellable(self.stop):
            model = self._model()
            cfg = TrainConfig.from_dict(said)
            _unmute(cfg.logger, offline=self.run.settings["offline"])
            self._say("reading text")
            folder = self.runs.folder(self.run.id) / "checkpoints"
            training = TrainingRun(cfg, model, folder=folder, roots=self._roots, stop=self.stop, say=self._say)
        self._write(warnings=[*self.run.warnings, *training.warnings])
        self.training = training
        self._say("training")
        if training.go().state != "done":
            raise Cancelled("Asked to stop.")
        self._say("saving the SAE")
        return self._done(training, cfg, model)

    def _done(self, training: "TrainingRun", cfg: "TrainConfig", model: "LanguageModel") -> dict[str, Any]:
        path = home() / "saes" / self.run.name
        sae = training.save_sae(path)
        source = Source(path=str(path), model=self.run.settings["model"])
        handles = KnownHandles()
        handle = handles.name(model.handle, source, cfg.hook_name)
        handles.remember(handle, source, Placement())
        result: dict[str, Any] = {
            "sae": handle,
            "path": str(path),
            "provenance": {
                "model": model.name,
                "revision": model.revision,
                "sae": handle,
                "weights_hash": sae.weights_hash,
                "dtype": str(model.dtype).removeprefix("torch."),
                "device": str(model.device),
                "seed": cfg.seed,
                "versions": versions(),
            },
        }
        return {"state": "done", "message": "done", "result": result}

    def _stopped(self) -> dict[str, Any]:
        now = self.runs.table.get(self.run.id)
        state = "cancelled" if now is not None and now.cancel else "interrupted"
        return {"state": state, "message": f"{state}; resume goes on from the last checkpoint" if self.training else state}

    def _refusal(self, error: Exception) -> dict[str, str]:
        said = refusal(self.run.tool, error, TrainSae)
        return said | {"hint": f"{said['hint']} {next_call('train_sae', resume=self.run.id)} goes on."} if self.training else said

    def _model(self) -> "LanguageModel":
        from saescope.models import load_model

        settings = self.run.settings
        return load_model(settings["model"], device=settings["device"], offline=settings["offline"], progress=self._say)

    def _config(self, model: "LanguageModel") -> "TrainConfig":
        from saescope.training import parse_options, train_config

        request, settings = TrainSae.model_validate(self.run.request), self.run.settings
        said: dict[str, Any] = request.run | parse_options(request.options) | {"dataset": settings["dataset"], "name": self.run.name}
        return train_config(model, **{name: said[name] for name in said if name not in ("model", "options", "device")})

    @property
    def _roots(self) -> list[Path]:
        return [Path(root) for root in self.run.settings["roots"]]

    def _say(self, message: str, *, phase: str = "") -> None:
        self.message = message
        self._write(message=message, **({"phase": phase} if phase else {}))

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            self._write(**self._progress())
            now = self._read()
            if now is not None and now.cancel:
                self.stop.set()

    def _read(self) -> Run | None:
        try:
            return self.runs.table.get(self.run.id)
        except SaescopeError:
            return None

    def _write(self, **changes: Any) -> bool:
        """Whether it is in the row. A disk that is full must not end the run: the next beat tries again."""
        try:
            fresh: dict[str, Any] = {"heartbeat": time.time(), "pid": os.getpid()}
            with self._writing:
                return self.runs.table.update(self.run.id, **fresh | changes)
        except SaescopeError as error:
            sys.stderr.write(f"{error.message}\n")
            return False

    def _progress(self) -> dict[str, Any]:
        training = self.training
        if training is None:
            return {}
        from saescope.training.run import newest_checkpoint

        trainer, points = training.trainer, training.trainer.history.points
        speed = self.run.plan.get("step_tokens_per_s")
        buffered = trainer.step == 0 and training.store.n_received
        newest = newest_checkpoint(self.runs.folder(self.run.id) / "checkpoints")
        progress = {
            "step": trainer.step,
            "n_steps": trainer.cfg.n_steps,
            "n_tokens": trainer.n_tokens,
            "eta_s": training.eta_s(step_s_per_token=1 / speed if speed else 0.0),
            "metrics": {"latest": points[-1] if points else None, "history": thinned(points)},
        }
        message = f"filling the buffer: {training.store.n_received:,} tokens read" if buffered else self.message
        return {"progress": progress, "message": message, "checkpoint": str(newest) if newest else None}


def thinned(points: "list[Point]", n: int = HISTORY_POINTS) -> "list[Point]":
    """At most `n` of them, evenly, the last one included; the fields that make a curve."""
    every = [points[round(i * (len(points) - 1) / (n - 1))] for i in range(n)] if len(points) > n else points
    return [{name: point[name] for name in ("step", "loss", "l0", "explained_variance", "dead_share")} for point in every]


def does_not_fit(plan: dict[str, Any]) -> ResourceError:
    memory = plan["memory_bytes"] > plan["memory_free_bytes"]
    need, free = (plan["memory_bytes"], plan["memory_free_bytes"]) if memory else (plan["disk_bytes"], plan["disk_free_bytes"])
    return ResourceError(
        f"The run does not fit: it needs {need / 1e9:.2g} GB of {'memory' if memory else 'disk'}, {free / 1e9:.2g} GB are free.",
        code="OUT_OF_MEMORY_BUDGET" if memory else "DISK_TOO_SMALL",
        got=need,
        allowed=free,
        hint=f"Call train_sae again with {' or '.join(plan['change'])}." if plan["change"] else "Free some, then call train_sae again.",
    )


def _unmute(logger: str, *, offline: bool) -> None:
    """The command line and the server switch wandb off for everybody else."""
    if logger == "wandb":
        os.environ["WANDB_MODE"] = "offline" if offline else "online"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
