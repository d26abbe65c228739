"""Datasets of the Hugging Face hub, streamed: nothing is downloaded whole."""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

from saescope import hub
from saescope.activations.columns import (
    SAMPLE_ROWS,
    existing,
    samples_of,
    text_at,
    text_column,
)
from saescope.errors import ArgumentError, FormatError, NotFoundError, OfflineError, cause_of
from saescope.extras import require_extra

_NAME = re.compile(
    r"hf:(?P<repo>[\w-][\w.-]*/[\w.-]+)(/(?P<config>[\w.-]+))?(:(?P<split>[\w.-]+))?"
)


_LOCAL = 'use what is here: local files or dataset="embedded".'


class HubName(NamedTuple):
    """A data set on the hub, as written: `hf:owner/name[/config][:split]`."""

    repo: str
    config: str
    split: str


def parse_name(name: str) -> HubName:
    """Raises ArgumentError for anything but `hf:owner/name[/config][:split]`."""
    match = _NAME.fullmatch(name)
    if match is None or ".." in name:
        raise ArgumentError(
            f"{name!r} is no dataset name.",
            code="INVALID_REPO_ID",
            field="dataset",
            got=name,
            allowed="hf:owner/name[/config][:split]",
        )
    return HubName(match["repo"], match["config"] or "", match["split"] or "train")


def require_hub(name: HubName) -> None:
    """Raise ConfigError without `datasets`, and OfflineError where the hub takes no connection;
    what HF_HUB_OFFLINE leaves is for `datasets` and its cache to say."""
    require_extra("datasets", f"The dataset hf:{name.repo}", field="dataset", without=_LOCAL)
    if not (hub.offline_mode() or hub.hub_answers()):
        raise _unreachable(name, "it takes no connection")


def read_hub(name: HubName, column: str) -> Iterator[str]:
    """Yield the rows of a data set on the hub, one document a row."""
    require_hub(name)
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    with _reachable(name):
        rows = iter(load_dataset(name.repo, name.config or None, split=name.split, streaming=True))
        first: list[dict[str, Any]] = list(islice(rows, SAMPLE_ROWS))
        if not first:
            return
        column = (
            existing(column, samples_of(first), name.repo)
            if column
            else text_column(samples_of(first), name.repo)
        )
        for number, row in enumerate((row for part in (first, rows) for row in part), 1):
            yield from text_at(row, column, f"Row {number} of {name.repo}")


@contextmanager
def _reachable(name: HubName) -> Generator[None]:
    from datasets.exceptions import DatasetNotFoundError
    from httpx import HTTPError

    try:
        yield
    except DatasetNotFoundError as error:
        raise NotFoundError(
            f"The hub has no dataset {name.repo!r} (or it is private or gated).",
            code="DATASET_NOT_FOUND",
            field="dataset",
            got=name.repo,
            hint="Check the name; for a private or gated dataset set HF_TOKEN.",
        ) from error
    except (
        ValueError
    ) as error:  # an unknown split or configuration; the message lists those that there are
        raise ArgumentError(
            f"{name.repo}: {cause_of(error)}",
            code="INVALID_CHOICE",
            field="dataset",
            got=name,
            hint='Name them: "hf:owner/name/config:split".',
        ) from error
    except (HTTPError, OSError) as error:
        raise _unreachable(name, type(error).__name__) from error
    except (
        RuntimeError,
        KeyError,
    ) as error:  # a loading script, which the library no longer runs, or torn files
        raise FormatError(
            f"The dataset {name.repo} cannot be read: {cause_of(error)}",
            field="dataset",
        ) from error


def _unreachable(name: HubName, why: str) -> OfflineError:
    return OfflineError(
        f"The dataset {name.repo} cannot be reached ({why}).",
        field="dataset",
        got=name.repo,
        hint=f"Connect to the network, or {_LOCAL}",
    )
