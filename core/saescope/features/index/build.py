"""Makes an index of a text: one forward pass for several SAEs, stoppable and resumable to the
bit."""

import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import torch

from saescope import checkpoints as disk
from saescope.activations import EMBEDDED, ContextConfig, Dataset, Harvester, open_dataset
from saescope.activations.corpus import Corpus
from saescope.activations.hashing import hash_contexts
from saescope.errors import Cancelled, ConfigError, FormatError, NumericError
from saescope.features.index.accumulate import Accumulator
from saescope.features.index.config import IndexConfig
from saescope.features.index.feature_index import FeatureIndex
from saescope.features.index.firings import Contexts
from saescope.features.index.hashing import is_quiz
from saescope.features.index.manifest import FORMAT
from saescope.features.index.store import IndexOrigin, folder_of, index_root, write_index
from saescope.features.index.texts import ContextLog
from saescope.finite import finite_together
from saescope.models import LanguageModel, model_fingerprint
from saescope.progress import Report
from saescope.saes import SAE
from saescope.sinks import find_sinks, many_sinks
from saescope.splice import check_fits, encode_site, read_hook, site_hooks

CHECKPOINT_S = 300.0
CHECKPOINT = 2
"""The form of a checkpoint; one of another form is of an earlier version."""


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far a run is."""

    state: Literal["running", "stopped", "done"]
    n_tokens: int
    n_wanted: int
    n_contexts: int
    tokens_per_s: float | None
    eta_s: float | None


class IndexRun:
    """One pass over a text for several SAEs of a model; `go` returns at its end, or when it is
    stopped, with a checkpoint in `folder`."""

    def __init__(
        self,
        model: LanguageModel,
        saes: Sequence[SAE],
        dataset: Dataset,
        cfg: IndexConfig,
        *,
        folder: Path | None = None,
        root: Path | None = None,
    ) -> None:
        """Goes on from the newest good checkpoint in `folder`. Indexes are kept below `root`
        (default: `home() / "indexes"`).

        Raises:
            MismatchError, HookError: an SAE does not fit the model.
            ConfigError: the SAEs want different contexts; or a checkpoint is of another run
                (CHECKPOINT_MISMATCH).
            FormatError: CHECKPOINT_CORRUPT: there are checkpoints, but none is whole.
        """
        self.warnings = [
            warning for sae in saes for warning in check_fits(model, sae, allow_mismatch=True)
        ]
        self.model, self.saes, self.dataset = model, list(saes), dataset
        self.cfg = replace(
            cfg,
            prepend_bos=shared_bos(model, saes, cfg),
            context_size=min(cfg.context_size, model.n_ctx),
        )
        self.root = root or index_root()
        contexts = ContextConfig(  # nothing is held out
            context_size=self.cfg.context_size,
            prepend_bos=self.cfg.prepend_bos,
            held_out=0.0,
            seed=cfg.seed,
        )
        self.corpus = Corpus(model, dataset, contexts, n_tokens=cfg.n_tokens)
        hooks = [hook for sae in saes for hook in site_hooks(sae)]
        self.harvester = Harvester(model, hooks, self.cfg.context_size)
        self.parts = [Accumulator(sae.cfg.d_sae, self.cfg, sae.device) for sae in saes]
        self.fingerprint = f"{CHECKPOINT} {_fingerprint(model, saes, dataset, self.cfg)}"
        self.keeps = folder is not None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="saescope-index-"))
        self.log = ContextLog(self.folder, n_contexts=self._resume())
        self._indexes = list[FeatureIndex]()

    @torch.no_grad()
    def go(
        self,
        *,
        report: Report[IndexProgress] | None = None,
        stop: threading.Event | None = None,
    ) -> IndexProgress:
        """Read to the end, or until `stop` is set; the state is "done" or "stopped"."""
        started, before = time.monotonic(), self.corpus.n_tokens
        schedule = disk.Schedule(CHECKPOINT_S)
        try:
            while not self.corpus.ended:
                if stop is not None and stop.is_set():
                    raise Cancelled("The run was asked to stop.")
                self._step()
                if self.keeps and schedule.due:
                    self.save()
                    schedule.saved()
                if report is not None:
                    report(
                        self._progress(
                            "running", time.monotonic() - started, self.corpus.n_tokens - before
                        )
                    )
        except Cancelled:  # before a batch was counted: it comes again
            if self.keeps:
                self.save()
            return self._progress(
                "stopped", time.monotonic() - started, self.corpus.n_tokens - before
            )
        self._finish()
        return self._progress("done", time.monotonic() - started, self.corpus.n_tokens - before)

    def indexes(self) -> list[FeatureIndex]:
        """One for each SAE, in their order; empty before the end."""
        return self._indexes

    @property
    def memory_bytes(self) -> int:
        """What is kept of the features, in memory and in each checkpoint."""
        return sum(tensor.nbytes for part in self.parts for tensor in part.state_dict().values())

    def save(self) -> Path:
        """Write a checkpoint.

        Raises:
            ResourceError: DISK_FULL; the earlier one is untouched.
        """
        self.log.commit()
        tensors = {"corpus": self.corpus.state_dict()} | {
            f"sae{i}": part.state_dict() for i, part in enumerate(self.parts)
        }
        state = {"fingerprint": self.fingerprint, "n_contexts": self.log.n_contexts}
        return disk.save(self.folder, self.log.n_contexts, disk.Checkpoint(tensors, state), keep=1)

    def _step(self) -> None:
        ids, numbers = self.corpus.peek()
        activations = self.harvester(ids.clamp(min=0).long())
        # Whatever runs the model comes before the log, and what was not finite is taken out of it
        # again: an error or a cancel leaves these contexts to the next step.
        with finite_together() as checks:
            acts = [
                encode_site(self.model, sae, activations[read_hook(sae)])[1] for sae in self.saes
            ]
            sinks = [
                find_sinks(self.model, {name: activations[name] for name in site_hooks(sae)})
                for sae in self.saes
            ]
            hashes, mask = hash_contexts(ids), self.corpus.mask(ids)
            with self.log.unless(NumericError):
                fresh = self.log.add(hashes, ids, numbers)
                contexts = Contexts(hashes, mask, is_quiz(hashes, self.cfg.quiz_share), fresh)
                for part, sparse, out in zip(self.parts, acts, sinks, strict=True):
                    part.add(sparse, contexts.without(out), checks)
        self.corpus.done()

    def _resume(self) -> int:
        """Contexts that were done before."""
        disk.clean(self.folder)
        path = disk.latest(self.folder)
        if path is None:
            if any(self.folder.glob(f"{disk.PREFIX}*")):
                raise FormatError(
                    "No checkpoint of this run is whole.",
                    code="CHECKPOINT_CORRUPT",
                    hint="Start it again without resume.",
                )
            return 0
        tensors, state = disk.load(path)
        if state["fingerprint"] != self.fingerprint:
            raise ConfigError(
                "The checkpoint belongs to another model, SAE, text or configuration: "
                "they changed since.",
                code="CHECKPOINT_MISMATCH",
                field="dataset",
                hint="Resume with the model, the SAEs, the text and the options of the "
                "first run, or start a new one.",
            )
        self.corpus.load_state_dict(tensors["corpus"])
        for i, part in enumerate(self.parts):
            part.load_state_dict(tensors[f"sae{i}"])
        return int(state["n_contexts"])

    def _finish(self) -> None:
        self.corpus.check()
        self.log.commit()
        origin = IndexOrigin(
            self.model, self.dataset.name, self.corpus.n_tokens, self.corpus.n_contexts, self.cfg
        )
        for part in self.parts:
            self.warnings += many_sinks(
                self.corpus.n_tokens - part.statistics.n_tokens, part.statistics.n_tokens
            )
        key = _fingerprint(self.model, [], self.dataset, self.cfg)[:16]
        self._indexes = [
            write_index(folder_of(sae.weights_hash, self.root) / key, sae, part, self.log, origin)
            for sae, part in zip(self.saes, self.parts, strict=True)
        ]
        self.log.close()
        for path in self.folder.glob(f"{disk.PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)
        self.log.file.unlink(missing_ok=True)
        if not self.keeps:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _progress(
        self, state: Literal["running", "stopped", "done"], seconds: float, n_new: int
    ) -> IndexProgress:
        rate = n_new / seconds if n_new and seconds else None
        left = 0 if state == "done" else max(0, self.cfg.n_tokens - self.corpus.n_tokens)
        return IndexProgress(
            state,
            self.corpus.n_tokens,
            self.cfg.n_tokens,
            self.log.n_contexts,
            rate,
            left / rate if rate else None,
        )


@overload
def index_features(
    model: LanguageModel,
    saes: SAE,
    dataset: str | Dataset = ...,
    *,
    folder: Path | None = ...,
    root: Path | None = ...,
    report: Report[IndexProgress] | None = ...,
    **settings: Any,
) -> FeatureIndex: ...


@overload
def index_features(
    model: LanguageModel,
    saes: Sequence[SAE],
    dataset: str | Dataset = ...,
    *,
    folder: Path | None = ...,
    root: Path | None = ...,
    report: Report[IndexProgress] | None = ...,
    **settings: Any,
) -> list[FeatureIndex]: ...


def index_features(
    model: LanguageModel,
    saes: SAE | Sequence[SAE],
    dataset: str | Dataset = EMBEDDED,
    *,
    folder: Path | None = None,
    root: Path | None = None,
    report: Report[IndexProgress] | None = None,
    **settings: Any,
) -> FeatureIndex | list[FeatureIndex]:
    """Index one SAE, or several in one pass (a list for a list). `settings` are those of
    `IndexConfig`: n_tokens=1_000_000, ...

    With a `folder`, checkpoints are kept there, and a run that was cut off goes on.
    """
    several = [saes] if isinstance(saes, SAE) else list(saes)
    opened = open_dataset(dataset) if isinstance(dataset, str) else dataset
    run = IndexRun(model, several, opened, IndexConfig(**settings), folder=folder, root=root)
    run.go(report=report)
    return run.indexes()[0] if isinstance(saes, SAE) else run.indexes()


def shared_bos(model: LanguageModel, saes: Sequence[SAE], cfg: IndexConfig) -> bool:
    """Whether contexts begin with a BOS, as the SAEs want it.

    Raises:
        ConfigError: MIXED_BOS: some want it and some do not.
    """
    if cfg.prepend_bos is not None:
        return cfg.prepend_bos
    prepend_bos = [sae.cfg.metadata.prepend_bos for sae in saes]
    wanted = {model.tokenizer.adds_bos if one is None else one for one in prepend_bos}
    if len(wanted) != 1:
        raise ConfigError(
            "The SAEs were trained some with and some without BOS: they cannot read "
            "the same contexts."
            if wanted
            else "No SAE is given.",
            code="MIXED_BOS" if wanted else "MISSING_ARGUMENT",
            field="sae",
            hint="Index them one after the other.",
        )
    return wanted.pop()


def _fingerprint(
    model: LanguageModel, saes: Sequence[SAE], dataset: Dataset, cfg: IndexConfig
) -> str:
    identity = (
        FORMAT,
        model_fingerprint(model),
        model.sink_factor,
        [sae.weights_hash for sae in saes],
        dataset.fingerprint,
        cfg,
    )
    return hashlib.sha256(repr(identity).encode()).hexdigest()
