"""Giving an SAE away: to a folder or a repository, with a card, in a layout that sae-lens and
saescope both load."""

from saescope.publish.publication import Loading, Publication
from saescope.publish.writing import publish_sae
from saescope.records.publication import PublishedFile

__all__ = ["Loading", "Publication", "PublishedFile", "publish_sae"]
