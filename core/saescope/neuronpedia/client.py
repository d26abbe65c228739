"""What one may ask Neuronpedia. Answers are kept on disk; an old one serves when there is no
network, and says so."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from saescope.errors import ArgumentError, FormatError, NotFoundError, OfflineError, SaescopeError
from saescope.neuronpedia import failures, records
from saescope.neuronpedia.cache import ReplyCache
from saescope.neuronpedia.identity import HostedSAE
from saescope.neuronpedia.records import RemoteCard, RemoteHit, RemoteLabel, Retrieval
from saescope.neuronpedia.transfer import Patience, Transfer

FRESH_CARD_S, FRESH_SEARCH_S = 7 * 86400.0, 86400.0
AT_ONCE = 50
"""Features whose labels are asked for in one request."""
ONE_BY_ONE = 10
MOST_FEATURES = 500
SHORTEST_QUERY, LONGEST_QUERY = 3, 256
"""Characters."""

T = TypeVar("T")


class Neuronpedia:
    """Labels, cards and searches. SAEs are named as the catalogue names them:
    `gpt2-small/8-res-jb`.

    Texts in the results were written by strangers: they are cleaned and capped, and must be marked
    as untrusted wherever they are shown. A key in NEURONPEDIA_API_KEY raises some limits; it is
    sent in a header, over https or to this machine only.
    """

    def __init__(self, *, offline: bool = False, patience: Patience | None = None) -> None:
        """`offline`: only what is cached.

        Raises:
            ConfigError, ArgumentError: NEURONPEDIA_ENDPOINT or NEURONPEDIA_API_KEY is not what it
                should be.
        """
        self._offline = offline
        self._transfer = Transfer(patience or Patience())
        self._cache = ReplyCache(self._transfer.endpoint)

    def __enter__(self) -> "Neuronpedia":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transfer.close()

    @property
    def n_requests_left(self) -> int | None:
        """Requests that this hour still allows, as the last answer said; None before the first."""
        return self._transfer.n_requests_left

    def card(self, neuronpedia_id: str, feature: int) -> RemoteCard:
        """Return all that is known of one feature.

        Raises:
            NotFoundError, OfflineError, FormatError, ArgumentError: coded NEURONPEDIA_... or
                NOT_ON_NEURONPEDIA.
        """
        sae, what = HostedSAE.parse(neuronpedia_id), f"feature {feature} of {neuronpedia_id}"
        return self._known(
            f"feature/{sae}/{feature}",
            what,
            FRESH_CARD_S,
            lambda: self._transfer.ask("GET", f"/feature/{sae}/{feature}", what),
            lambda reply, retrieval: records.card(reply, sae, feature, retrieval),
        )

    def labels(
        self, neuronpedia_id: str, features: Sequence[int]
    ) -> dict[int, tuple[RemoteLabel, ...]]:
        """The labels of many features, in few requests; those that Neuronpedia lacks have none.

        Raises:
            OfflineError, FormatError, ArgumentError: as `card`; nothing is returned then, but what
                arrived is kept.
        """
        sae, wanted = HostedSAE.parse(neuronpedia_id), list(dict.fromkeys(features))
        if len(wanted) > MOST_FEATURES:
            raise ArgumentError(
                "Too many features.",
                field="features",
                got=len(wanted),
                allowed=f"at most {MOST_FEATURES}",
                hint="Ask for fewer.",
            )
        kept = {
            feature: entry
            for feature in wanted
            if (entry := self._cache.get(_labels_name(sae, feature)))
        }
        missing = [
            feature
            for feature in wanted
            if feature not in kept or kept[feature].age_s >= FRESH_CARD_S
        ]
        labels = {
            feature: records.labels(json.loads(entry.content)) for feature, entry in kept.items()
        }
        try:
            for start in range(0, len(missing), AT_ONCE):
                labels |= self._ask_labels(sae, missing[start : start + AT_ONCE])
        except (OfflineError, FormatError):
            if any(feature not in labels for feature in missing):
                raise
        return {feature: labels.get(feature, ()) for feature in wanted}

    def search_labels(self, neuronpedia_id: str, query: str, *, k: int = 10) -> list[RemoteHit]:
        """Features of this SAE whose labels mean something like `query`, nearest first: at most 20.

        Raises:
            OfflineError, FormatError, ArgumentError: as `card`.
        """
        sae, asked = HostedSAE.parse(neuronpedia_id), query.strip()
        if not SHORTEST_QUERY <= len(asked) <= LONGEST_QUERY:
            allowed = f"{SHORTEST_QUERY} to {LONGEST_QUERY} characters"
            raise ArgumentError(
                "Neuronpedia does not search for this.",
                field="query",
                got=f"{len(asked)} characters",
                allowed=allowed,
                hint=f"Give a query of {allowed}.",
            )
        body = {"modelId": sae.model, "layers": [sae.source], "query": asked}
        path, what = "/explanation/search", f"a search in the labels of {sae}"
        return self._known(
            f"{path} {json.dumps(body, sort_keys=True)}",
            what,
            FRESH_SEARCH_S,
            lambda: self._transfer.ask("POST", path, what, body=body),
            lambda reply, _: records.hits(reply, sae),
        )[:k]

    def _known(
        self,
        name: str,
        what: str,
        fresh_s: float,
        ask: Callable[[], bytes],
        read: Callable[[Any, Retrieval], T],
    ) -> T:
        """Return an answer from the cache while it is fresh, else ask anew; the cache again if
        nobody answers."""
        kept = self._cache.get(name)
        problem = ""
        if not kept or kept.age_s >= fresh_s:
            try:
                if self._offline:
                    raise failures.offline(what)
                content = ask()
                result = read(json.loads(content), Retrieval(0.0))
                self._cache.put(name, content)
                return result
            except (OfflineError, FormatError) as error:
                if not kept:
                    raise
                problem = error.code
        return read(json.loads(kept.content), Retrieval(kept.age_s, problem))

    def _ask_labels(
        self, sae: HostedSAE, features: list[int]
    ) -> dict[int, tuple[RemoteLabel, ...]]:
        what = f"labels of {sae}"
        if self._offline:
            raise failures.offline(what)
        body = [
            {"modelId": sae.model, "layer": sae.source, "index": feature, "maxActsToReturn": 1}
            for feature in features
        ]
        try:
            reply: Any = json.loads(self._transfer.ask("POST", "/features", what, body=body))
        except SaescopeError as error:
            if error.code not in (failures.MISSING, failures.REFUSED):
                raise
            return self._labels_of_cards(sae, features)
        if not isinstance(reply, list):
            raise failures.unreadable(what, "has another shape than its route gives")
        rows = {
            str(row.get("index")): row.get("explanations") for row in reply if isinstance(row, dict)
        }
        labels: dict[int, tuple[RemoteLabel, ...]] = {}
        for feature in features:
            kept = {"explanations": rows.get(str(feature))}
            labels[feature] = records.labels(kept)
            self._cache.put(_labels_name(sae, feature), json.dumps(kept).encode())
        return labels

    def _labels_of_cards(
        self, sae: HostedSAE, features: list[int]
    ) -> dict[int, tuple[RemoteLabel, ...]]:
        """One request a feature, where the route for many is gone: it is not in Neuronpedia's
        documentation."""
        labels: dict[int, tuple[RemoteLabel, ...]] = {}
        for feature in features[:ONE_BY_ONE]:
            try:
                labels[feature] = self.card(str(sae), feature).labels
            except NotFoundError as error:
                if error.code != failures.MISSING:
                    raise
        return labels


def _labels_name(sae: HostedSAE, feature: int) -> str:
    return f"labels/{sae}/{feature}"
