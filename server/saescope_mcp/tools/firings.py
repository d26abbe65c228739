"""encode_text of named features: where they fire, and how well that agrees with a pattern."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from saescope.records.firings import Detection, FeatureFirings, Proportion
from saescope_mcp.binding import next_call
from saescope_mcp.jobs import Job
from saescope_mcp.replies.corpus import Densities, densities_of_stack
from saescope_mcp.replies.facts import (
    left_out,
    many_sinks_of,
    nothing_left,
    percent,
    provenance,
    read_on,
)
from saescope_mcp.replies.labels import StackLabels, labels_of_stack
from saescope_mcp.replies.rows import extended
from saescope_mcp.replies.waiting import result_or_job, still_running
from saescope_mcp.schemas.common import Provenance
from saescope_mcp.schemas.read import EncodeText, NamedRow, PlacesReply
from saescope_mcp.settings import Settings
from saescope_mcp.state import (
    AppState,
    LoadedSAE,
    LoadedStack,
    dataset_name,
    given_texts,
    hash_of,
    void_quizzes,
)

if TYPE_CHECKING:
    from saescope.activations import Dataset
    from saescope.features import NamedFirings, TextPassage

_UNKNOWN: Mapping[str, Any] = dict.fromkeys(("l0_mean", "explained_variance", "cosine"))
"""What a reading of some features does not measure."""
MOST_SAID = 4
"""Features of which the summary speaks; the rows have all."""


class NamedKnown(NamedTuple):
    """What is known of the named features beside these texts."""

    labels: StackLabels
    corpus: Densities

    @property
    def warnings(self) -> list[str]:
        return [*self.labels.warnings, *self.corpus.warnings]


async def places_of(state: AppState, request: EncodeText) -> PlacesReply:
    """Where the features that the call names fire."""
    if request.dataset:
        return await _in_a_dataset(state, request)
    given = await given_texts(state, request)
    async with state.use_all(request.handles) as stack:
        loaded = stack.entries[0]
        # refuses what is too long
        tokens = await loaded.tokenize(given.texts, from_file=given.from_file, long=stack.long())
        await loaded.slot.run(void_quizzes, given.texts)
        found = await loaded.slot.run(_find, loaded, request, partial(_passages, given.texts))
    omitted = left_out(
        found.n_left_out, tokens, named=bool(request.positions), n_sinks=found.n_sinks
    )
    summary = f"{given.about}{_where(found)}{_agrees(found)} {omitted}"
    known = await _known(stack, found.named)
    origin = provenance(stack, files=given.files)
    return _reply(request, found, known, origin=origin, stack=stack, summary=summary)


async def _in_a_dataset(state: AppState, request: EncodeText) -> PlacesReply:
    """A job, since many tokens take long."""
    _check(state.require(request.sae), request)
    dataset = dataset_name(request.dataset, state.settings)
    text = await state.loaders.run(partial(_opened, dataset, request, state.settings))
    files = await hash_of(state, dataset)

    async def work(job: Job) -> PlacesReply:
        async with state.use_all(request.handles, patient=True) as stack:
            loaded = stack.entries[0]
            passages = partial(_of_dataset, text, job)
            found = await loaded.slot.run(_find, loaded, request, passages, job)
        known = await _known(stack, found.named)
        n_read = found.n_tokens + found.n_left_out
        read = (
            f"The first {n_read:,} tokens of {text.name} (documents: {found.n_texts:,}), "
            f"{found.n_left_out:,} of them left out (position 0, special tokens and sinks)."
        )
        summary = f"{read} {_where(found)}{_agrees(found)}"
        origin = provenance(stack, files=files)
        return _reply(request, found, known, origin=origin, stack=stack, summary=summary)

    again = read_on("encode_text", request, request.offset)
    done, job = await result_or_job(
        state, request, work, tool="encode_text", again=again, about=dataset
    )
    return done or PlacesReply(
        **still_running(job, "The reading"),
        tokens=[],
        total=0,
        n_tokens=0,
        n_left_out=0,
        n_sinks=0,
        bos_prepended=False,
        **_UNKNOWN,
    )


def _check(loaded: LoadedSAE, request: EncodeText) -> None:
    """Raises what is wrong with the call, before it becomes a job."""
    from saescope.features.named import require_features
    from saescope.patterns import Pattern

    require_features(loaded.sae, request.features)
    if request.pattern:
        Pattern(request.pattern)


def _opened(dataset: str, request: EncodeText, settings: Settings) -> "Dataset":
    """Raises what is wrong with the text, before the call waits for the model."""
    from saescope.activations import open_dataset, open_labelled, require_text

    roots, column, label = list(settings.read_roots), request.text_column, request.label_column
    opened = (
        open_labelled(dataset, label, text_column=column, roots=roots)
        if label
        else open_dataset(dataset, text_column=column, roots=roots)
    )
    require_text(opened)
    return replace(opened, name=Path(dataset).name) if Path(dataset).is_absolute() else opened


def _passages(
    texts: Sequence[str], loaded: LoadedSAE, request: EncodeText
) -> "Sequence[TextPassage]":
    from saescope.features import text_passages

    return text_passages(
        loaded.model,
        texts,
        pattern=request.pattern,
        positions=request.positions,
        prepend_bos=loaded.sae.cfg.metadata.prepend_bos,
    )


def _of_dataset(
    text: "Dataset", job: Job, loaded: LoadedSAE, request: EncodeText
) -> "Sequence[TextPassage]":
    from saescope.features import dataset_passages

    job.say("reading the text")
    passages = dataset_passages(
        loaded.model,
        text,
        n_tokens=request.n_tokens,
        pattern=request.pattern,
        prepend_bos=loaded.sae.cfg.metadata.prepend_bos,
    )
    join = loaded.model.tokenizer.join
    void_quizzes([join(passage.tokens.ids.tolist()) for passage in passages])
    return passages


def _find(
    loaded: LoadedSAE,
    request: EncodeText,
    passages: "Callable[[LoadedSAE, EncodeText], Sequence[TextPassage]]",
    job: Job | None = None,
) -> "NamedFirings":
    from saescope.features import find_firings

    def progress(done: int, total: int) -> None:
        loaded.slot.done(done / total)
        if job:
            job.say(f"reading features: {done / total:.0%}")

    return find_firings(
        loaded.model,
        loaded.sae,
        passages(loaded, request),
        features=request.features,
        include_special=request.include_special,
        progress=progress,
    )


async def _known(stack: LoadedStack, features: Sequence[int]) -> NamedKnown:
    named = [(0, feature) for feature in features]
    return NamedKnown(await labels_of_stack(stack, named), await densities_of_stack(stack, named))


def _reply(
    request: EncodeText,
    found: "NamedFirings",
    known: NamedKnown,
    *,
    stack: LoadedStack,
    origin: Provenance,
    summary: str,
) -> PlacesReply:
    each = bool(request.dataset)
    total = found.total(one_a_text=each)
    end = request.offset + request.limit
    more = end < total
    return PlacesReply(
        summary=summary,
        warnings=[
            *nothing_left(found.n_tokens),
            *many_sinks_of(stack, [found]),
            *_without_match(found),
            *_one_sided(found),
            *known.warnings,
        ],
        next=_next(request, found, end if more else None),
        evidence="observed",
        provenance=origin,
        features=[
            extended(
                NamedRow,
                row,
                density=known.corpus.by_feature.get((0, row.feature)),
                label=known.labels.by_feature.get((0, row.feature)),
            )
            for row in found.features
        ],
        places=found.places(request.limit, offset=request.offset, one_a_text=each),
        tokens=[],
        total=total,
        truncated=more,
        next_offset=end if more else None,
        bos_prepended=found.passages[0].tokens.bos_prepended,
        n_tokens=found.n_tokens,
        n_left_out=found.n_left_out,
        n_sinks=found.n_sinks,
        **_UNKNOWN,
    )


def _next(request: EncodeText, found: "NamedFirings", end: int | None) -> list[str]:
    on = [read_on("encode_text", request, end)] if end is not None else []
    fires = next((row.feature for row in found.features if row.n_firing), None)
    about = {"sae": request.sae, "feature": fires}
    return [*on, *([next_call("describe_feature", **about)] if fires is not None else [])]


def _where(found: "NamedFirings") -> str:
    """Where each feature fires; those that fire nowhere in one sentence."""
    silent = [row.feature for row in found.features if not row.n_firing]
    firing = [row for row in found.features if row.n_firing]
    tops = {place.feature: place for place in found.places(len(firing))}
    said = [
        f"Feature {row.feature} fires on {row.n_firing:,} of {found.n_tokens:,} tokens in "
        f"{row.n_texts:,} of {found.n_texts:,} texts, most on {tops[row.feature].token!r} "
        f"({row.max_activation:.3g})."
        for row in firing[:MOST_SAID]
    ]
    said += [f"{len(firing) - MOST_SAID} more fire."] if len(firing) > MOST_SAID else []
    return " ".join([*said, *([_nowhere(silent, found)] if silent else [])])


def _nowhere(silent: Sequence[int], found: "NamedFirings") -> str:
    many = len(silent) > 1
    names = ", ".join(map(str, silent))
    return (
        f"Feature{'s' if many else ''} {names} fire{'' if many else 's'} nowhere "
        f"in {found.n_tokens:,} tokens."
    )


def _agrees(found: "NamedFirings") -> str:
    """How well firing agrees with the pattern and with labels; nothing without them."""
    return _of_matches(found) + _of_labels(found)


def _of_matches(found: "NamedFirings") -> str:
    first = found.features[0].by_token
    if first is None:
        return ""
    positive = (
        f" Positive is a token that overlaps a match: {first.n_positive:,} "
        f"({percent(first.base_rate)})."
    )
    if not first.n_positive:
        return positive
    return positive + "".join(map(_agreement, found.features[:MOST_SAID]))


def _of_labels(found: "NamedFirings") -> str:
    first = found.features[0].by_text
    if first is None or not found.labelled:
        return ""
    said = (
        f" Feature {row.feature}: {', '.join(_rates(row.by_text))}."
        for row in found.features[:MOST_SAID]
        if row.by_text and row.n_firing
    )
    n, without = found.n_unlabelled, ""
    if n:
        without = f" {n:,} document{'s have' if n > 1 else ' has'} no label: not in this test."
    return (
        f" By document, positive is a true label: {first.n_positive:,} "
        f"({percent(first.base_rate)}).{without}{''.join(said)}"
    )


def _agreement(row: FeatureFirings) -> str:
    if row.by_token is None or not row.n_firing:
        return ""
    parts = _rates(row.by_token)
    parts += [f"it fires in {_in_words(row.matches_hit)} of the matches"] if row.matches_hit else []
    return f" Feature {row.feature}: {', '.join(parts)}."


def _rates(one: Detection) -> list[str]:
    named = (("precision", one.precision), ("recall", one.recall))
    said = [f"{name} {_in_words(each)}" for name, each in named if each]
    return [*said, *([f"AUC {one.auc:.2f}"] if one.auc is not None else [])]


def _in_words(one: Proportion) -> str:
    spread = "" if one.low is None else f" ({one.low:.2f} to {one.high:.2f})"
    return f"{one.value:.2f}{spread}"


def _without_match(found: "NamedFirings") -> list[str]:
    if found.matched is None or bool(found.matched.any()):
        return []
    return ["The pattern matches no counted token: there is nothing to find."]


def _one_sided(found: "NamedFirings") -> list[str]:
    """A warning where labels, as the first rows of a sorted file may, leave nothing to tell."""
    by_text = found.features[0].by_text
    if by_text is None or not found.labelled or 0 < by_text.base_rate < 1:
        return []
    which = "Every" if by_text.n_positive else "No"
    return [
        f"{which} document that was read is positive: nothing is told apart. Check the label, or "
        "read more (n_tokens)."
    ]
