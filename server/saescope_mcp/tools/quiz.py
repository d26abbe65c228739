"""quiz_feature and label_feature."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mcp.types import ToolAnnotations

from saescope.errors import NotFoundError
from saescope.ledger import KeptEntry
from saescope.records.labels import MissedItem
from saescope.verdicts import LabelVerdict
from saescope_mcp.binding import next_call, nothing
from saescope_mcp.groups import Group
from saescope_mcp.replies import Tool
from saescope_mcp.replies.facts import provenance
from saescope_mcp.replies.labels import short_label
from saescope_mcp.schemas.features import (
    LabelFeature,
    LabelFeatureReply,
    QuizFeature,
    QuizFeatureReply,
)
from saescope_mcp.state import AppState, LoadedSAE

if TYPE_CHECKING:
    from saescope.features import Label, Quiz
    from saescope.features.index import FeatureIndex

N_LABELS = 5
N_SIMILAR = 5


async def quiz_feature(state: AppState, request: QuizFeature) -> QuizFeatureReply:
    """A blind test of a label: short texts that no card shows; the feature fires on half. Write the
    label first, judge each item by it alone, then call label_feature with one boolean per item, in
    order. Running tools on these texts voids the quiz."""
    entry = state.require(request.sae)
    quiz = await state.workers.run(partial(_quiz, entry, request, (await entry.indexed()).best))
    return QuizFeatureReply(
        summary=f"Quiz {quiz.id} on feature {request.feature}: {len(quiz.items)} texts. "
        "Detection: does the feature fire anywhere in the text? Fuzzing: on the token between ⟦ "
        "and ⟧?",
        warnings=quiz.warnings,
        next=[
            next_call(
                "label_feature",
                sae=request.sae,
                feature=request.feature,
                text="...",
                quiz_id=quiz.id,
                answers=[True, False],
            )
        ],
        quiz_id=quiz.id,
        feature=request.feature,
        items=quiz.items,
    )


async def label_feature(state: AppState, request: LabelFeature) -> LabelFeatureReply:
    """Store what a feature fires on, in words; with quiz_id and answers also how well the label
    predicts it: balanced accuracy with a 95 % interval (0.5 is chance), and the items that were
    missed. Without a quiz it is kept as not tested."""
    entry = state.require(request.sae)
    label, missed, others = await state.workers.run(
        partial(_label, entry, request, state.settings.label_source)
    )
    score = label.score
    tested = "It is not tested."
    if score:
        tested = (
            f"Balanced accuracy {score.balanced_accuracy:.2f} "
            f"({score.low:.2f} to {score.high:.2f}) of {score.n} items: {score.verdict}."
            f"{_missed(missed, len(request.answers))}"
        )
        if score.n_tries > 1:
            tested += f" The interval is widened for {score.n_tries} quizzes on this feature."
    again = score is None or score.verdict is LabelVerdict.UNDECIDED
    return LabelFeatureReply(
        summary=f"Feature {request.feature} is labelled {label.text!r}. {tested}",
        next=[
            next_call(
                "quiz_feature" if again else "describe_feature",
                sae=request.sae,
                feature=request.feature,
            )
        ],
        evidence="observed",
        provenance=provenance(entry),
        feature=request.feature,
        label=short_label(label),
        detection=score and score.detection,
        fuzzing=score and score.fuzzing,
        missed=missed,
        labels=[short_label(each) for each in others[:N_LABELS]],
    )


def _missed(missed: Sequence[MissedItem], n: int) -> str:
    """Which of the answers just given were wrong."""
    if not n:
        return ""
    which = ", ".join(str(item.n) for item in missed) or "none"
    said = f"those to items {which} are" if len(missed) > 1 else f"that to item {which} is"
    return f" Of these {n} answers {said if missed else 'none is'} wrong."


def _quiz(entry: LoadedSAE, request: QuizFeature, index: "FeatureIndex | None") -> "Quiz":
    from saescope.features import make_quiz, nearest_features
    from saescope.features.named import require_features

    require_features(entry.sae, [request.feature], "feature")
    if index is None:
        raise NotFoundError(
            f"There is no index of {entry.handle}: a quiz needs texts on which the "
            "feature is known to fire or not.",
            code="NOT_INDEXED",
            field="sae",
            got=entry.handle,
            hint=next_call("index_features", sae=entry.handle),
        )
    similar = [row.feature for row in nearest_features(entry.sae, request.feature, N_SIMILAR)]
    return make_quiz(index, request.feature, n=request.n, seed=request.seed, similar=similar)


def _label(
    entry: LoadedSAE, request: LabelFeature, source: str
) -> "tuple[Label, list[MissedItem], list[Label]]":
    from saescope.features import LabelStore, QuizStore
    from saescope.features.named import require_features

    require_features(entry.sae, [request.feature], "feature")
    which = (entry.weights_hash, request.feature)
    if request.quiz_id:
        label, missed = QuizStore().answer(
            request.quiz_id,
            request.answers,
            weights_hash=which[0],
            feature=which[1],
            text=request.text,
            source=source,
        )
    else:
        label, missed = LabelStore().add(*which, request.text, source=source), []
    return label, missed, LabelStore().of(*which)


def _without_items(entry: KeptEntry) -> KeptEntry:
    """What the ledger keeps of a label: its score, and nothing of the quiz's items or answers."""
    answers, missed = entry.arguments.get("answers", []), entry.document["missed"]
    told = _missed([MissedItem(**item) for item in missed], len(answers))
    said = entry.summary.replace(told, "") if told else entry.summary
    arguments = {name: value for name, value in entry.arguments.items() if name != "answers"}
    return replace(
        entry, arguments=arguments, document=entry.document | {"summary": said, "missed": []}
    )


_WRITES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
TOOLS = [
    Tool(
        quiz_feature,
        QuizFeature,
        _WRITES.model_copy(update={"title": "Quiz on a feature", "idempotent_hint": True}),
        group=Group.KNOW,
        keeps=nothing,
    ),
    Tool(
        label_feature,
        LabelFeature,
        _WRITES.model_copy(update={"title": "Label a feature"}),
        group=Group.KNOW,
        keeps=_without_items,
    ),
]
