"""Is this SAE any good? Every metric of the field on held-out text, with intervals, baselines and a
verdict."""

import torch
from torch import Tensor

from saescope.activations import EMBEDDED, Dataset
from saescope.evals.baselines import Fitted, fit_pca, fit_random
from saescope.evals.behaviour import MEAN, WITH_SAE, StandIn, compare
from saescope.evals.reconstruction import Reconstruction, reconstruct
from saescope.evals.report import report
from saescope.evals.text import evaluation_text
from saescope.models import LanguageModel
from saescope.progress import Progress, counting
from saescope.records.evaluation import Evaluation
from saescope.saes import SAE
from saescope.splice import check_fits

"""Called with the tokens done and the tokens in all, both passes counted."""


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    sae: SAE,
    dataset: str | Dataset | Tensor = EMBEDDED,
    *,
    n_tokens: int = 20_000,
    baselines: bool = True,
    include_special: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure an SAE on a dataset's held-out text, or on given contexts `[n, n_pos]` (filled up
    with -1).

    `include_special` counts and edits position 0, special tokens and attention sinks as well. The
    text is read twice, a batch at a time: up to the site for everything about the reconstruction,
    and through the model for its predictions. `baselines` needs the memory of a second decoder and
    of two matrices d_out x d_out.

    Raises:
        NotFoundError: there is no such text.
        HookError, MismatchError: the SAE does not fit the model.
        Cancelled: the caller gave up; the model is as before.
    """
    warnings = check_fits(model, sae, allow_mismatch=True, measured=True)
    text = evaluation_text(
        model, sae, dataset, n_tokens=n_tokens, seed=seed, include_special=include_special
    )
    done = counting(progress, 2 * text.ids.numel())
    fit = reconstruct(model, sae, text, covariance=baselines, done=done)
    text = text.without(fit.sinks.cpu())
    l0 = float(fit.by_group.total("l0")) / fit.n_tokens
    fitted = None
    if baselines:
        fitted = Fitted(
            fit_random(model, sae, text, fit, l0=l0, seed=text.seed), fit_pca(fit, sae, l0)
        )
    compare(model, sae, text, _stand_ins(fit, sae, fitted), fit.by_group, done)
    return report(sae, text, fit, fitted, warnings=(*warnings, *text.warnings))


def _stand_ins(fit: Reconstruction, sae: SAE, fitted: Fitted | None) -> dict[str, StandIn]:
    mean = fit.mean.float().to(sae.device)
    simple: dict[str, StandIn] = {
        WITH_SAE: lambda site, fold: site.sae_out,
        MEAN: lambda site, fold: mean.expand_as(site.target),
    }
    if fitted is None:
        return simple
    pca: dict[str, StandIn] = {} if fitted.pca is None else {"pca": fitted.pca}
    return simple | {"random_sae": fitted.random_sae} | pca
