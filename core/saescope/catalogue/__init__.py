"""The catalogue of published SAEs: SAELens's registry in compact form, and how to find one in it.
No torch, no network."""

from saescope.catalogue.cached import hub_cache, is_cached, is_cached_repository
from saescope.catalogue.registry import Entry, get, releases
from saescope.catalogue.search import CatalogueRow, Page, find, on_this_machine

__all__ = [
    "CatalogueRow",
    "Entry",
    "Page",
    "find",
    "get",
    "hub_cache",
    "is_cached",
    "is_cached_repository",
    "on_this_machine",
    "releases",
]
