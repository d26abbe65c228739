"""Many SAEs from one forward pass a batch: a set of layers, or several SAEs at one site.

    <folder>/<site>/ckpt-...     each site's buffer and SAEs
    <folder>/passes/ckpt-...     positions in the text

Each SAE is bit for bit the one that a run of its own trains with the same seed, text and order
(`data_seed`), on one device with one number of threads, as long as the model is run by the same
modules for both: a hook that only the bridge has makes the whole pass go through the bridge.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from saescope import checkpoints as disk
from saescope.activations import TextPasses
from saescope.activations.sources import contexts_at_once, text_fingerprint
from saescope.errors import Cancelled, NumericError
from saescope.hooks import hook_width
from saescope.models import LanguageModel
from saescope.progress import Report, Say, silent
from saescope.saes import SAE
from saescope.training.budget import SiteConfigs, by_site, grouped, in_order, room
from saescope.training.config import TrainConfig
from saescope.training.data import Rate, context_config, hooks_of, text_of
from saescope.training.loggers import make_logs
from saescope.training.plan import not_read_by_saelens
from saescope.training.run import named, newest_checkpoint
from saescope.training.sets import check_set, names_of
from saescope.training.site import MemberProgress, TrainingSite

PASSES = "passes"
KEPT_PASSES = 4
"""A kill in the middle of saving leaves sites at two of them."""

Keep = Callable[[str, SAE], object]
"""Called with the name of an SAE that is trained, and the SAE."""


class SetProgress(NamedTuple):
    """How far a set is."""

    state: Literal["running", "done", "stopped"]
    step: int
    """The step of the SAE that is behind."""
    n_steps: int
    n_tokens: int
    members: tuple[MemberProgress, ...]


class SetRun:
    """One run; `go` returns at its end, or once `stop` is set, either way with complete checkpoints
    in `folder`. Sites that do not fit into memory together are trained in groups, each in a pass of
    its own over the text."""

    def __init__(
        self,
        configs: Sequence[TrainConfig],
        model: LanguageModel,
        *,
        folder: Path | None = None,
        roots: Sequence[Path] = (),
        stop: threading.Event | None = None,
        say: Say = silent,
    ) -> None:
        self.configs, self.model, self.folder = names_of(check_set(configs)), model, folder
        self.stop, self.say = stop or threading.Event(), say
        self.cfg = next(iter(self.configs.values()))
        self.groups = grouped(in_order(by_site(self.configs)), room(model.device))
        self.dataset = text_of(self.cfg, roots=roots)
        self.sites: list[TrainingSite] = []
        """Those of the group that is being trained."""
        self.harvest = Rate()
        self._members = {name: MemberProgress(name, 0, 0, {}) for name in self.configs}
        self.warnings = not_read_by_saelens(self.configs.values())

    def go(self, *, keep: Keep, report: Report[SetProgress] | None = None) -> SetProgress:
        """Train to the end or to a stop. `keep` gets each SAE as soon as its group is through; one
        whose training failed is left out, and its progress says why.

        Raises:
            ResourceError: DISK_FULL: the last checkpoints are untouched.
            NumericError: none of the SAEs can be trained.
        """
        logs = make_logs(self.configs, self.folder)
        schedule = disk.Schedule(float(self.cfg.checkpoint_every_s))
        for group in self.groups:
            self.sites = [self._site(configs) for configs in group]
            for member in (member for site in self.sites for member in site.members):
                member.log = logs.get(member.name)
            if any(not site.done for site in self.sites) and not self._train(schedule, report):
                return self.progress("stopped")
            self._hand_over(keep)
        failed = [member for member in self._members.values() if member.error]
        if len(failed) == len(self._members):
            raise NumericError(failed[0].error, code="LOSS_NOT_FINITE", field="lr")
        return self.progress("done")

    def progress(self, state: Literal["running", "done", "stopped"] = "running") -> SetProgress:
        for member in (member for site in self.sites for member in site.members):
            self._members[member.name] = member.progress
        members = tuple(self._members[name] for name in self.configs)
        behind = min((m for m in members if not m.error), key=lambda m: m.step, default=members[0])
        return SetProgress(state, behind.step, self.cfg.n_steps, behind.n_tokens, members)

    def eta_s(
        self, *, harvest_s_per_token: float = 0.0, step_s_per_token: float = 0.0
    ) -> float | None:
        """Seconds to go at the pace of the last minutes; before that at the pace that is given."""
        harvest = self.harvest.s_per_token or harvest_s_per_token
        rates = [m.rate.s_per_token for site in self.sites for m in site.members]
        measured = [rate for rate in rates if rate is not None]
        step = sum(measured) / len(measured) if measured else step_s_per_token
        if not harvest or not step:
            return None
        n_tokens = self.cfg.n_steps * self.cfg.chosen.batch_size
        members = self.progress().members
        to_train = sum(n_tokens - m.n_tokens for m in members if not m.error)
        begun = {member.name for site in self.sites for member in site.members}
        later = len(self._waiting(begun))
        received = max((site.store.n_received for site in self.sites), default=0)
        return harvest * (n_tokens - received + later * n_tokens) + step * to_train

    def _waiting(self, begun: set[str]) -> list[list[SiteConfigs]]:
        """The groups after the one that is being trained."""
        at = [
            i for i, group in enumerate(self.groups) if any(begun & site.keys() for site in group)
        ]
        return self.groups[at[0] + 1 :] if at else self.groups

    def _site(self, configs: SiteConfigs) -> TrainingSite:
        """A site as its newest good checkpoint has it; without one it begins anew, which costs time
        and changes nothing."""
        hooks = hooks_of(next(iter(configs.values())))
        contexts = context_config(self.cfg)
        site = TrainingSite(
            configs,
            {name: hook_width(self.model, name) for name in hooks},
            device=self.model.device,
            max_rows=contexts_at_once(self.model, contexts) * (contexts.context_size - 1),
            fingerprint=text_fingerprint(self.model, hooks, self.dataset, contexts),
            stop=self.stop,
        )
        if self.folder is not None:
            self._restore(site, self.folder / folder_of(site))
        return site

    def _passes(self) -> TextPasses:
        """The passes for all sites that are not done, from where the one that is behind needs
        them."""
        waiting = [site for site in self.sites if not site.done]
        passes = TextPasses(self.model, waiting, self.dataset, context_config(self.cfg))
        if self.folder is not None:
            disk.clean(self.folder / PASSES)
            behind = min(site.n_passes for site in waiting)
            if behind and (saved := disk.latest(self.folder / PASSES, up_to=behind)):
                passes.load_state_dict(disk.load(saved).tensors["text"])
        return passes

    def _restore(self, site: TrainingSite, folder: Path) -> None:
        disk.clean(folder)
        newest, good = newest_checkpoint(folder), disk.latest(folder)
        if newest != good and newest is not None:
            self.warnings.append(
                f"{newest.name} of {site.hook_names[0]} is damaged ({disk.damage(newest)}); that "
                f"site continues from {good.name if good else 'the start'}."
            )
        if good is not None:
            site.restore(disk.load(good))

    def _train(self, schedule: disk.Schedule, report: Report[SetProgress] | None) -> bool:
        """Train the sites to their end; False where the run was stopped."""
        passes = self._passes()
        try:
            self._go_through(passes, schedule, report)
        except Cancelled:
            self._save(passes)
            return False
        self._save(passes)
        return True

    def _go_through(
        self, passes: TextPasses, schedule: disk.Schedule, report: Report[SetProgress] | None
    ) -> None:
        for site in self.sites:
            site.advance()
        while not all(site.done for site in self.sites):
            if self.stop.is_set():
                raise Cancelled("The run was asked to stop.")
            started, spent_s = time.monotonic(), sum(site.spent_s for site in self.sites)
            before = passes.n_supplied
            passes.next_pass()
            took_s = time.monotonic() - started - (sum(s.spent_s for s in self.sites) - spent_s)
            n_rows = (passes.n_supplied - before) / max(1, len(passes.readers))
            self.harvest.add(took_s, n_rows)
            if report is not None:
                report(self.progress())
            if schedule.due:
                self._save(passes)
                schedule.saved()

    def _save(self, passes: TextPasses) -> None:
        """The position in the text first: sites that a kill keeps from being saved catch up from
        an older one."""
        if self.folder is None:
            return
        text = disk.Checkpoint({"text": passes.state_dict()}, {})
        keep = max(KEPT_PASSES, self.cfg.keep_checkpoints + 2)
        disk.save(self.folder / PASSES, passes.n_passes, text, keep=keep)
        for site in self.sites:
            site.save(self.folder / folder_of(site))

    def _hand_over(self, keep: Keep) -> None:
        self.progress()
        for site in self.sites:
            for member in site.members:
                if member.error is None:
                    keep(
                        member.name, named(member.trainer.result(), member.trainer.cfg, self.model)
                    )
        self.sites = []


def folder_of(site: TrainingSite) -> str:
    """The name of the folder of a site's checkpoints."""
    return "-to-".join(site.hook_names)
