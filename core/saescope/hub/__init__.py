"""The Hugging Face hub: which repository holds an SAE, its list of files, and their content, ranged
or whole. No torch.

Nothing that leaves this package names a token or a signed address: errors say repository, file and
what happened.
"""

from saescope.hub.failures import invalid_config_error
from saescope.hub.location import Location, first_name, resolve
from saescope.hub.repository import Fetch, Repository, repository

__all__ = [
    "Fetch",
    "Location",
    "Repository",
    "first_name",
    "invalid_config_error",
    "repository",
    "resolve",
]
