"""The catalogue of published SAEs: SAELens's registry in compact form, and how to find one in it.
No torch, no network."""

from saescope.catalogue.cached import hub_cache, is_cached, is_cached_repository, models_here
from saescope.catalogue.model_sizes import BYTES, ModelSize, is_model_here, model_size
from saescope.catalogue.registry import Entry, get, releases
from saescope.catalogue.search import CatalogueRow, Page, find_saes, on_this_machine

__all__ = [
    "BYTES",
    "CatalogueRow",
    "Entry",
    "ModelSize",
    "Page",
    "find_saes",
    "get",
    "hub_cache",
    "is_cached",
    "is_cached_repository",
    "is_model_here",
    "model_size",
    "models_here",
    "on_this_machine",
    "releases",
]
