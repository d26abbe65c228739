"""The training of a set: many SAEs from one pass of the model, each saved and checked as soon as
it is there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from saescope.errors import Cancelled
from saescope_mcp.worker.base import Worker
from saescope_mcp.worker.curves import curves, densities, evenly, medians
from saescope_mcp.worker.made import provenance, remembered

if TYPE_CHECKING:
    from saescope.evals import Check
    from saescope.saes import SAE
    from saescope.training import SetRun
    from saescope.training.site import MemberProgress

WATCHED = ("loss", "l0", "explained_variance", "dead_share", "lr")
HISTORY_POINTS = 16


class SetJob:
    """A set in training: what becomes of each SAE, and how far all are."""

    def __init__(self, worker: Worker, training: "SetRun") -> None:
        self.worker, self.training = worker, training
        self.handles, self.lines = dict[str, str](), dict[str, str]()

    def do(self, path: Path) -> dict[str, Any]:
        """Train the set into folders below `path`, and return the result of the job.

        Raises:
            Cancelled: the run was stopped; its checkpoints are complete.
            NumericError: none of the SAEs could be trained.
        """
        self.worker.say("training")
        end = self.training.go(keep=lambda name, sae: self._keep(path / name, name, sae))
        self.worker.warn(*self.training.warnings)
        if end.state != "done":
            raise Cancelled("Asked to stop.")
        self.worker.warn(
            *(f"{m.name} was not trained to the end: {m.error}" for m in end.members if m.error)
        )
        names = [member.name for member in end.members]
        made = provenance(self.training.model, self.training.cfg.seed)
        return {
            "saes": [self.handles[name] for name in names if name in self.handles],
            "members": [self.lines.get(m.name) or line_of(m, end.n_steps) for m in end.members],
            "path": str(path),
            "provenance": {**made, "sae": None, "weights_hash": None},
        }

    def _keep(self, path: Path, name: str, sae: "SAE") -> None:
        from saescope.evals import check_sae
        from saescope.training.run import saved

        self.worker.say(f"saving and checking {name}")
        model, hook_name = self.training.model, self.training.configs[name].hook_name
        saved(sae, path)
        place = self.worker.run.settings["model"]
        self.handles[name] = remembered(path, place, model.handle, hook_name)
        self.lines[name] = checked_line(name, check_sae(model, sae))
        self.worker.say("training")

    def progress(self, plan: dict[str, Any]) -> dict[str, Any]:
        """How far the set is: the medians and the worst over its SAEs, and a line for each."""
        training, at = self.training, self.training.progress()
        harvest, step = plan.get("harvest_tokens_per_s"), plan.get("step_tokens_per_s")
        points = [member.point for member in at.members if member.point]
        runs = {member.name: member.points for member in at.members}
        middle = medians(runs)
        latest: dict[str, Any] | None = None
        if points:
            latest = {"step": at.step} | {
                name: median(point[name] for point in points) for name in WATCHED
            }
            latest["explained_variance_worst"] = min(p["explained_variance"] for p in points)
        return {
            "progress": {
                "step": at.step,
                "n_steps": at.n_steps,
                "n_tokens": at.n_tokens,
                "eta_s": training.eta_s(
                    harvest_s_per_token=1 / harvest if harvest else 0.0,
                    step_s_per_token=1 / (step * len(at.members)) if step else 0.0,
                ),
                "metrics": {"latest": latest, "history": watched(evenly(middle, HISTORY_POINTS))},
                "curves": curves({"": middle, **runs}),
                "densities": densities({member.name: member.firings for member in at.members}),
                "members": [line_of(member, at.n_steps) for member in at.members],
            }
        }


def watched(points: "Sequence[Mapping[str, Any]]") -> list[dict[str, Any]]:
    """The points with the numbers that a result has."""
    return [{name: point[name] for name in ("step", *WATCHED)} for point in points]


def line_of(member: "MemberProgress", n_steps: int) -> str:
    """One SAE in training."""
    at = f"{member.name}: step {member.step:,} of {n_steps:,}"
    if member.error:
        return f"{at}, given up: {member.error}"
    if not member.point:
        return at
    return (
        f"{at}, explained variance {member.point['explained_variance']:.3f}, L0 "
        f"{member.point['l0']:.1f}, {member.point['dead_share']:.1%} dead"
    )


def checked_line(name: str, check: "Check") -> str:
    """One SAE that is trained, on the probe text."""
    said = {"explained variance": check.explained_variance, "CE score": check.ce_score}
    numbers = "".join(f"{what} {value:.3f}, " for what, value in said.items() if value is not None)
    return f"{name}: {numbers}L0 {check.l0:.1f}"
