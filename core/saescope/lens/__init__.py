"""Readers of the residual stream: the logit lens, Jacobian lenses (fitted here or published), and
what features write through them."""

from saescope.lens.fit import LensConfig, fit_lens
from saescope.lens.lens import JACOBIAN, LOGIT, Lens, layer_written, logit_lens_of
from saescope.lens.plan import LensPlan, plan_lens
from saescope.lens.published import open_lens
from saescope.lens.read import read_lens
from saescope.lens.store import find_lens, lens_root
from saescope.lens.through import effects_through, tokens_through
from saescope.models.analysis import published_lenses

__all__ = [
    "JACOBIAN",
    "LOGIT",
    "Lens",
    "LensConfig",
    "LensPlan",
    "effects_through",
    "find_lens",
    "fit_lens",
    "layer_written",
    "lens_root",
    "logit_lens_of",
    "open_lens",
    "plan_lens",
    "published_lenses",
    "read_lens",
    "tokens_through",
]
