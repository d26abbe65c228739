"""An indexing: one pass over a text, from SAEs that were loaded by the server to their indexes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from saescope.cancel import cancellable
from saescope.errors import Cancelled, ConfigError
from saescope_mcp.replies.facts import versions
from saescope_mcp.schemas.index import IndexFeatures
from saescope_mcp.settings import Settings
from saescope_mcp.state import Placement, Source
from saescope_mcp.state.loading import read_model, read_sae
from saescope_mcp.state.measured import keep_sparsity
from saescope_mcp.worker.base import Worker

if TYPE_CHECKING:
    from saescope.features.index import IndexProgress, IndexRun
    from saescope.models import LanguageModel
    from saescope.saes import SAE


CONTEXT_SIZE = 128


class IndexWorker(Worker):
    """One pass for one or several SAEs of a model, each loaded from where the server loaded it."""

    phase = "indexing"
    reading = False
    latest: "IndexProgress | None" = None

    def do(self) -> dict[str, Any]:
        from saescope.activations import open_dataset
        from saescope.features.index import IndexConfig, IndexRun
        from saescope.training.machine import n_threads, use_threads

        use_threads(self.run.config.get("threads", n_threads()))
        self.write(config={"threads": n_threads()})  # a resumed run is bit-equal with as many
        asked, settings = IndexFeatures.model_validate(self.run.request), self.run.settings
        with cancellable(self.stop):
            model, saes = self._loaded()
            self.say("reading text")
            roots = [Path(root) for root in settings["roots"]]
            dataset = open_dataset(settings["dataset"], text_column=asked.text_column, roots=roots)
            cfg = IndexConfig(n_tokens=asked.n_tokens, context_size=min(CONTEXT_SIZE, model.n_ctx))
            indexing = IndexRun(model, saes, dataset, cfg, folder=self.checkpoints)
        self.warn(*indexing.warnings)
        self.reading = True
        self.say("indexing")
        if indexing.go(report=self._report, stop=self.stop).state != "done":
            raise Cancelled("Asked to stop.")
        self.warn(*indexing.warnings)  # the sinks are counted by now
        return self._done(indexing, model)

    def progress(self) -> dict[str, Any]:
        if (at := self.latest) is None:
            return {}
        last = self.newest()
        return {
            "progress": {
                "n_tokens": at.n_tokens,
                "n_wanted": at.n_wanted,
                "tokens_per_s": at.tokens_per_s,
                "eta_s": at.eta_s,
            },
            "checkpoint": str(last) if last else None,
        }

    @property
    def can_resume(self) -> bool:
        return self.reading

    def _report(self, at: "IndexProgress") -> None:
        self.latest = at

    def _loaded(self) -> "tuple[LanguageModel, list[SAE]]":
        from saescope.models import has_fingerprint
        from saescope.origin import settle

        stored = self.run.settings
        device, dtype = stored["device"], stored["dtype"]
        settings = Settings(
            offline=stored["offline"],
            allow_pickle=stored["allow_pickle"],
            sink_factor=stored["sink_factor"],
        )
        self.say("loading the model")
        up_to = stored.get("up_to", [])  # a job of an earlier version reads all of it
        model = read_model(
            stored["model"], Placement(device, dtype), settings, self.say, up_to=up_to
        )
        known = stored.get("model_fingerprint")  # a job of an earlier version has none
        if known and not has_fingerprint(model, known):
            raise _changed("MODEL_CHANGED", "model", stored["model_handle"])
        self.say("loading the SAE")
        saes = [
            read_sae(Source(**row["source"]), device, row["dtype"], settings, self.say)
            for row in stored["saes"]
        ]
        for sae, row in zip(saes, stored["saes"], strict=True):
            if sae.weights_hash != row["weights_hash"]:
                raise _changed("SAE_CHANGED", "sae", row["sae"])
        return model, [settle(model, sae) for sae in saes]

    def _done(self, indexing: "IndexRun", model: "LanguageModel") -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        for index, row in zip(indexing.indexes(), self.run.settings["saes"], strict=True):
            fired = index.densities[index.densities > 0]
            keep_sparsity(row["source"]["path"], index)
            rows.append(
                {
                    "sae": row["sae"],
                    "weights_hash": index.manifest.weights_hash,
                    "n_features": index.manifest.d_sae,
                    "n_fired": len(fired),
                    "median_density": float(fired.median()) if len(fired) else None,
                    "n_tokens": index.manifest.n_tokens,
                    "n_contexts": index.manifest.n_contexts,
                    "path": str(index.folder),
                }
            )
        provenance = {
            "model": model.name,
            "revision": model.revision,
            "sae": rows[0]["sae"],
            "weights_hash": rows[0]["weights_hash"],
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "seed": indexing.cfg.seed,
            "versions": versions(),
        }
        return {
            "sae": rows[0]["sae"],
            "dataset": indexing.indexes()[0].manifest.dataset,
            "indexes": rows,
            "provenance": provenance,
        }


def _changed(code: str, field: str, handle: str) -> ConfigError:
    again = "load it again" if field == "sae" else "load_sae again for each of its SAEs"
    return ConfigError(
        f"{handle} has changed since it was loaded.",
        code=code,
        field=field,
        got=handle,
        hint=f'Call unload(handle="{handle}"), {again}, then index it.',
    )
