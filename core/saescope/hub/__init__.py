"""The Hugging Face hub: which repository holds an SAE, its list of files, and their content, ranged
or whole. No torch.

Nothing that leaves this package names a token or a signed address: errors say repository, file and
what happened.
"""

from saescope.hub.failures import invalid_config_error, not_cached
from saescope.hub.location import Location, first_name, resolve
from saescope.hub.repository import Fetch, Repository, hub_answers, offline_mode, repository

__all__ = [
    "Fetch",
    "Location",
    "Repository",
    "first_name",
    "hub_answers",
    "invalid_config_error",
    "not_cached",
    "offline_mode",
    "repository",
    "resolve",
]
