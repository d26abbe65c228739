"""SAEs that were trained on a module of a Hugging Face model: at which hook of a given model that
module reads or writes."""

from dataclasses import replace

from saescope.errors import HookError, MismatchError
from saescope.models import LanguageModel
from saescope.saes import SAE, SAEMetadata


def settle(model: LanguageModel, sae: SAE) -> SAE:
    """The SAE at the hooks of this model whose tensors are those that its modules read or gave;
    itself where it is there already.

    One name of a module stands for different hooks: the output of `layers.5.mlp` is `hook_mlp_out`
    in Llama, and `mlp.hook_out` where a norm comes before the sum (Gemma 2, OLMo 2). So the model
    is asked, on a few tokens.

    Raises:
        HookError: no hook of this model has that tensor.
    """
    meta = settle_metadata(model, sae.cfg.metadata)
    return sae if meta is sae.cfg.metadata else sae.with_metadata(meta)


def settle_metadata(model: LanguageModel, meta: SAEMetadata) -> SAEMetadata:
    """What `settle` makes of an SAE's metadata, before its weights are there."""
    changed = {
        field: hooks[0]
        for field, hooks in _hooks(model, meta).items()
        # The first hook is the usual name: several may carry one tensor where nothing lies between
        # them.
        if getattr(meta, field) != hooks[0]
    }
    return replace(meta, **changed, raw=dict(meta.raw) | changed) if changed else meta


def require_settled(model: LanguageModel, meta: SAEMetadata) -> None:
    """Raises MismatchError where the SAE would be used at another tensor than its module's."""
    for field, hooks in _hooks(model, meta).items():
        if (ours := getattr(meta, field)) not in hooks:
            raise MismatchError(
                f"In {model.name} the SAE's module is at {hooks[0]}, not {ours}.",
                code="SITE_UNSETTLED",
                field=field,
                got=ours,
                allowed=hooks[0],
                hint="Use saescope.settle(model, sae), which returns the SAE at its place "
                "in this model.",
            )


def _hooks(model: LanguageModel, meta: SAEMetadata) -> dict[str, tuple[str, ...]]:
    """Find for each of the SAE's sites that a module stands for the hooks of this model that carry
    it, the usual name first."""
    hooks = dict[str, tuple[str, ...]]()
    for field, module, side in (
        ("hook_name", meta.module, meta.module_side),
        ("hook_name_out", meta.module_out, "output"),
    ):
        if not module:
            continue
        hooks[field] = model.hooks_of_module(module, side)
        if not hooks[field]:
            raise HookError(
                f"The SAE was trained on the {side} of {module!r}, and no hook of "
                f"{model.name} has that tensor.",
                code="SITE_NOT_FOUND",
                field="hook_name",
                got=module,
                hint="Load it with its own model; or name the hook that you mean, and judge "
                "by the measured check: "
                'ss.load_sae(..., known={"hook_name": "blocks.5.hook_mlp_out"}).',
                facts={"example": "blocks.5.hook_mlp_out"},
            )
    return hooks
