"""A training: from a request to a saved SAE."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saescope.cancel import cancellable
from saescope.errors import Cancelled, ResourceError
from saescope.names import home
from saescope_mcp.schemas.train import TrainSae
from saescope_mcp.settings import Settings
from saescope_mcp.state import Placement
from saescope_mcp.state.loading import read_model
from saescope_mcp.worker.base import Worker
from saescope_mcp.worker.curves import curves, densities, evenly
from saescope_mcp.worker.made import provenance, remembered
from saescope_mcp.worker.sets import HISTORY_POINTS, SetJob, watched
from saescope_mcp.worker.together import Together

if TYPE_CHECKING:
    from saescope.models import LanguageModel
    from saescope.training import AskedRun, TrainConfig, TrainingRun

SET = "set"
BEGINS_ANEW = "Its checkpoints are gone: the run began anew."


class TrainWorker(Worker):
    """One training; its configuration is written down before its turn comes, and does not
    change."""

    phase = "training"
    training: "TrainingRun | None" = None
    set_job: SetJob | None = None
    together: Together | None = None

    def prepare(self) -> None:
        """Measure, write down the configuration and the plan, and refuse a run that does not
        fit."""
        if self.run.plan:
            return
        from saescope.training import for_ranks, make_plan, make_set_plan
        from saescope.training.machine import n_threads

        self.say("loading the model", phase="measuring")
        asked = self._asked()
        model = self.model([] if asked.many else asked.hooks)
        configs = asked.configs(model)
        cfg = configs[0]
        self.unmute(cfg)
        self.say("measuring the speed on this machine")
        where: Any = {"folder": self.runs.root, "roots": self.roots}
        plan = (
            make_set_plan(configs, model, **where) if asked.many else make_plan(cfg, model, **where)
        )
        plan = for_ranks(plan, cfg, self._nproc, one_memory=model.device.type == "cpu")
        written = {SET: [cfg.asked for cfg in configs]} if asked.many else cfg.to_dict()
        summary = {name: value for name, value in asdict(plan).items() if name != "warnings"}
        summary |= {
            "n_steps": cfg.n_steps,
            "d_in": cfg.d_in,
            "d_sae": cfg.d_sae,
            "context_size": cfg.context_size,
        }
        summary |= {"lr": cfg.chosen.lr, "device": str(model.device)}
        self.run = replace(
            self.run,
            config=written | {"threads": n_threads()},
            plan=summary,
            warnings=plan.warnings,
        )
        self.surely(config=self.run.config, plan=summary, warnings=plan.warnings)
        self.keep()
        if not plan.fits and not self.run.dry_run:
            raise does_not_fit(summary)

    def do(self) -> dict[str, Any]:
        from saescope.training import SetRun, TrainConfig, TrainingRun, hooks_of
        from saescope.training.machine import use_threads

        config = dict(self.run.config)
        threads = config.pop("threads")
        if self._nproc > 1:
            return self._do_together(TrainConfig.from_dict(config), threads)
        use_threads(threads)
        self.say("loading the model")
        many = config.pop(SET, None)
        with cancellable(self.stop):
            configs = [TrainConfig.from_dict(settings) for settings in many or [config]]
            model = self.model([] if many else [*hooks_of(configs[0])])
            self.unmute(configs[0])
            self.say("reading text")
            where: Any = {"folder": self.checkpoints, "roots": self.roots, "stop": self.stop}
            training = (
                SetRun(configs, model, **where)
                if many
                else TrainingRun(configs[0], model, say=self.say, **where)
            )
        self.warn(
            *training.warnings,
            *([BEGINS_ANEW] if self.run.checkpoint and not self.newest() else []),
        )
        if isinstance(training, SetRun):
            self.set_job = SetJob(self, training)
            return self.set_job.do(self.place())
        self.training = training
        self.say("training")
        if training.go().state != "done":
            raise Cancelled("AskedRun to stop.")
        self.say("saving the SAE")
        return self._done(training, configs[0], model)

    def _do_together(self, cfg: "TrainConfig", threads: int) -> dict[str, Any]:
        """In several processes; this one only follows them."""
        self.unmute(cfg)
        self.together = Together(self, cfg, threads=max(1, threads // self._nproc))
        return self.together.do(self._nproc, self.run.request.get("launcher", "torchrun"))

    @property
    def _nproc(self) -> int:
        return self.run.request.get("nproc", 1)

    def unmute(self, cfg: "TrainConfig") -> None:
        """The command line and the server switch wandb off for everybody else."""
        from saescope.training import mode_of_wandb

        if cfg.logger == "wandb":
            os.environ["WANDB_MODE"] = mode_of_wandb(offline=self.run.settings["offline"])

    def place(self) -> Path:
        """Name the folder the SAE goes to; if something else is there by now, one beside it.
        Written down first, for a resume to know."""
        if "path" in self.run.result:
            return Path(self.run.result["path"])
        path = home() / "saes" / self.run.name
        if path.exists():
            path = path.with_name(f"{path.name}-{self.run.id[-6:]}")
            self.warn(
                f"Something else is called {self.run.name!r} by now: this SAE is saved "
                f"as {path.name!r}."
            )
        self.write(result={"path": str(path)})
        return path

    def _done(
        self, training: "TrainingRun", cfg: "TrainConfig", model: "LanguageModel"
    ) -> dict[str, Any]:
        from saescope.training.history import concerns

        path = self.place()
        sae = training.save_sae(path)
        self.warn(*concerns(training.trainer.history.points[-1]))
        handle = remembered(path, self.run.settings["model"], model.handle, cfg.hook_name)
        return {
            "sae": handle,
            "path": str(path),
            "provenance": {
                **provenance(model, cfg.seed),
                "sae": handle,
                "weights_hash": sae.weights_hash,
            },
        }

    @property
    def can_resume(self) -> bool:
        return self.newest() is not None

    def model(self, hooks: list[str]) -> "LanguageModel":
        """The model as far as these hooks, all of it where none is named: a set's SAEs are measured
        by its predictions. So it is for a run of an earlier version, whose text is known by the
        whole model."""
        stored = self.run.settings
        settings = Settings(offline=stored["offline"], sink_factor=stored["sink_factor"])
        up_to = hooks if stored.get("up_to_site") else []
        return read_model(
            stored["model"], Placement(stored["device"]), settings, self.say, up_to=up_to
        )

    def _asked(self) -> "AskedRun":
        from saescope.training import asked_of

        request, settings = TrainSae.model_validate(self.run.request), self.run.settings
        asked = asked_of(request.run, request.options)
        here = {"dataset": settings["dataset"], "name": self.run.name}
        return asked._replace(settings=asked.settings | here)

    @property
    def roots(self) -> list[Path]:
        return [Path(root) for root in self.run.settings["roots"]]

    def newest(self) -> Path | None:
        """Find its newest checkpoint; of a set the folder of those of its sites."""
        if SET in self.run.config:
            there = any(self.checkpoints.glob("*/ckpt-*"))
            return self.checkpoints if there else None
        return super().newest()

    def progress(self) -> dict[str, Any]:
        if self.set_job is not None:
            newest = self.newest()
            return self.set_job.progress(self.run.plan) | {
                "message": self.message,
                "checkpoint": str(newest) if newest else None,
            }
        if self.together is not None:
            newest = self.newest()
            return self.together.progress() | {"checkpoint": str(newest) if newest else None}
        training = self.training
        if training is None:
            return {}
        trainer, points = training.trainer, training.trainer.history.points
        speed = self.run.plan.get("step_tokens_per_s")
        newest = self.newest()
        progress = {
            "step": trainer.step,
            "n_steps": trainer.cfg.n_steps,
            "n_tokens": trainer.n_tokens,
            "eta_s": training.eta_s(step_s_per_token=1 / speed if speed else 0.0),
            "metrics": {
                "latest": points[-1] if points else None,
                "history": watched(evenly(points, HISTORY_POINTS)),
            },
            "curves": curves({"": points}),
            "densities": densities({"": trainer.firings.last}),
        }
        return {
            "progress": progress,
            "message": self._phase(training),
            "checkpoint": str(newest) if newest else None,
        }

    def _phase(self, training: "TrainingRun") -> str:
        """What the run is at, in words."""
        store, step = training.store, training.trainer.step
        if self.message != "training" or step >= training.cfg.n_steps:
            return self.message
        if step == 0 and store.n_received:
            return f"filling the buffer: {store.n_received:,} tokens read"
        read = store.n_received >= store.cfg.n_tokens
        return "training on the last of the text" if read else self.message


def does_not_fit(plan: dict[str, Any]) -> ResourceError:
    memory = plan["memory_bytes"] > plan["memory_free_bytes"]
    need, free = (
        (plan["memory_bytes"], plan["memory_free_bytes"])
        if memory
        else (plan["disk_bytes"], plan["disk_free_bytes"])
    )
    return ResourceError(
        f"The run does not fit: it needs {need / 1e9:.2g} GB of "
        f"{'memory' if memory else 'disk'}, {free / 1e9:.2g} GB are free.",
        code="OUT_OF_MEMORY_BUDGET" if memory else "DISK_TOO_SMALL",
        got=need,
        allowed=free,
        hint=f"Call train_sae again with {' or '.join(plan['change'])}."
        if plan["change"]
        else "Free some, then call train_sae again.",
    )
