"""A training in several processes, which this worker starts, follows and stops: of the job they are
one run as any other."""

import shutil
from typing import TYPE_CHECKING, Any

from saescope.errors import Cancelled
from saescope_mcp.replies.facts import versions
from saescope_mcp.worker.curves import curves, densities, evenly
from saescope_mcp.worker.made import remembered
from saescope_mcp.worker.sets import HISTORY_POINTS, watched

if TYPE_CHECKING:
    from saescope.training import TrainConfig
    from saescope_mcp.worker.train import TrainWorker

LOOK_S = 0.5


class Together:
    """The processes of one training."""

    def __init__(self, worker: "TrainWorker", cfg: "TrainConfig", *, threads: int) -> None:
        from saescope.training.launched import LaunchedRun, Progress

        self.worker, self.cfg = worker, cfg
        # Their checkpoints are the job's: a resume finds them where those of one process are.
        self.folder = worker.checkpoints.parent
        self.latest = Progress()
        settings, fence = worker.run.settings, worker.run.settings["fence"]
        self.told = LaunchedRun(
            config=cfg.to_dict(),
            model=settings["model"],
            device=settings["device"],
            offline=settings["offline"],
            up_to_site=settings.get("up_to_site", False),
            sink_factor=settings["sink_factor"],
            threads=threads,
            roots=tuple(settings["roots"]),
            fence=None if fence is None else tuple(fence),
        )

    def do(self, nproc: int, launcher: Any) -> dict[str, Any]:
        """Train to the end, and return the result.

        Raises:
            Cancelled: the run was asked to stop, and has.
        """
        from saescope.training.launched import Progress
        from saescope.training.launcher import Launch

        launch = Launch(self.folder, self.told, nproc=nproc, launcher=launcher)
        try:
            while not launch.wait(LOOK_S):
                self.latest = Progress.read(self.folder)
                if self.worker.stop.is_set():
                    launch.stop()
        finally:
            launch.end()
        self.latest = Progress.read(self.folder)
        if self.worker.stop.is_set() and self.latest.state != "done":
            raise Cancelled("Asked to stop.")
        launch.require_success()
        self.worker.warn(*self.latest.warnings)
        return self._done()

    def progress(self) -> dict[str, Any]:
        """What the row says."""
        from saescope.training.launched import firings_of

        at = self.latest
        if not at.n_steps:
            return {"message": "starting the processes"}
        return {
            "message": f"training in {at.n_ranks} processes",
            "progress": {
                "step": at.step,
                "n_steps": at.n_steps,
                "n_tokens": at.n_tokens,
                "eta_s": at.eta_s,
                "metrics": {
                    "latest": at.points[-1] if at.points else None,
                    "history": watched(evenly(at.points, HISTORY_POINTS)),
                },
                "curves": curves({"": at.points}),
                "densities": densities({"": firings_of(self.folder)}),
            },
        }

    def _done(self) -> dict[str, Any]:
        from saescope.training.history import concerns
        from saescope.training.launched import SAE_FOLDER

        path, model = self.worker.place(), dict(self.latest.model)
        shutil.move(self.folder / SAE_FOLDER, path)
        self.worker.warn(*concerns(self.latest.points[-1]))
        name = self.worker.run.settings["model"]
        handle = remembered(path, name, model.pop("handle"), self.cfg.hook_name)
        return {
            "sae": handle,
            "path": str(path),
            "provenance": {
                "model": model.pop("name"),
                **model,
                "seed": self.cfg.seed,
                "versions": versions(),
                "sae": handle,
                "weights_hash": self.latest.weights_hash,
            },
        }
