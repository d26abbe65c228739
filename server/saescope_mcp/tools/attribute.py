"""attribute_logit."""

from typing import TYPE_CHECKING

from mcp.types import ToolAnnotations

from saescope.records.attribution import Attribution, Joint
from saescope_mcp.binding import next_call
from saescope_mcp.groups import Group
from saescope_mcp.replies import RESULT_APP, Tool
from saescope_mcp.replies.facts import (
    beside,
    brief,
    left_out,
    named_token,
    provenance,
    quantity_of,
)
from saescope_mcp.replies.labels import labels_of_stack
from saescope_mcp.replies.rows import extended, names_of
from saescope_mcp.schemas.attribute import (
    AttributeLogit,
    AttributeLogitReply,
    EffectRow,
    ShareOf,
)
from saescope_mcp.schemas.common import Evidence
from saescope_mcp.state import AppState, LoadedStack, void_quizzes

if TYPE_CHECKING:
    from saescope.models import Tokens


async def attribute_logit(state: AppState, request: AttributeLogit) -> AttributeLogitReply:
    """Explain a prediction: the features that a token's log-probability rests on, each estimated,
    then measured by ablation. `joint` ablates all, against random pairs like them; `error_*` is
    what the SAE does not see. Trust measured_effect over attribution."""
    async with state.use_all(request.handles) as stack:
        tokens, attribution = await _attribute(stack, request)
    labels = await labels_of_stack(stack, [(row.sae, row.feature) for row in attribution.features])
    return extended(
        AttributeLogitReply,
        attribution,
        summary=f"{_summary(attribution, stack)} "
        + left_out(
            attribution.n_left_out, [tokens], n_sinks=attribution.n_sinks, chat=request.chat
        ),
        warnings=[*attribution.warnings, *stack.disagreement(chat=request.chat), *labels.warnings],
        next=_next(request, attribution, tokens, stack),
        evidence=_evidence(attribution),
        provenance=provenance(stack, request.seed),
        method=request.method,
        features=[
            extended(EffectRow, row, **names_of(stack, labels, row.sae, row.feature))
            for row in attribution.features
        ],
        truncated=len(attribution.features) < attribution.total,
        by_sae=[
            extended(ShareOf, share, sae=handle)
            for share in attribution.by_sae
            if (handle := stack.handle(share.sae))
        ],
        bos_prepended=tokens.bos_prepended,
    )


async def _attribute(stack: LoadedStack, request: AttributeLogit) -> "tuple[Tokens, Attribution]":
    from saescope.attribution import attribute

    tokens = (await stack.reader.tokenize([request.prompt], chat=request.chat))[0]
    await stack.slot.run(void_quizzes, [request.prompt])
    attribution = await stack.slot.run(
        attribute,
        stack.model,
        stack.saes,
        tokens,
        target=request.target or None,
        against=request.against or None,
        position=request.position,
        measure=request.measure,
        method=request.method,
        k=request.k,
        sign=request.sign,
        validate=request.validate_,
        n_controls=request.n_controls,
        seed=request.seed,
        include_special=request.include_special,
    )
    return tokens, attribution


def _evidence(found: Attribution) -> Evidence:
    if found.joint is None:
        return "correlational"
    return "controlled" if found.joint.control.n else "intervened"


def _summary(found: Attribution, stack: LoadedStack) -> str:
    rank = f", the model's choice no. {found.target.rank}" if found.target.rank > 1 else ""
    what = quantity_of(found.measure, found.target, found.against)
    what += f" ({100 * found.target.prob:.3g}%{rank})"
    error = _in_errors(found, stack)
    if found.joint is None:
        return f"Features that the {what} is attributed to, not measured; {error}"
    return f"{_measured(found, found.joint, what)}; {error}"


def _measured(found: Attribution, joint: Joint, what: str) -> str:
    """What the listed features contribute: those of each sign apart, since together they cancel."""
    who = "random choices of pairs like these"
    if not found.by_sign:
        n = len(found.features)
        listed = f"Together the {n} listed features contribute" if n > 1 else "The feature adds"
        return (
            f"{listed} {joint.measured_effect:+.3g} to the {what}, measured by ablation"
            f"{beside(joint.control, who)}"
        )
    parts = [
        f"{part.n} with a {part.sign} estimate {part.measured_effect:+.3g}"
        f"{beside(part.control, who)}"
        for part in found.by_sign
    ]
    return f"Of the {what} the listed features contribute, measured by ablation, {', '.join(parts)}"


def _in_errors(found: Attribution, stack: LoadedStack) -> str:
    parts = [each for each in found.by_sae if each.error_share is not None]
    if not parts:
        return "nothing is attributed."
    errors = [
        f"{100 * (part.error_share or 0):.0f}% of all nodes"
        + ("" if part.error_effect is None else f", {part.error_effect:+.3g} measured")
        + (f" ({handle})" if (handle := stack.handle(part.sae)) else "")
        for part in parts
    ]
    return f"what the SAE does not reconstruct holds {'; '.join(errors)}."


def _next(
    request: AttributeLogit, attribution: Attribution, tokens: "Tokens", stack: LoadedStack
) -> list[str]:
    # intervene reads the last position only
    if not attribution.features or attribution.position != len(tokens) - 1:
        return [next_call("encode_text", **request.named, text=brief(request.prompt))]
    top = attribution.features[0]
    edits = [{"feature": top.feature, "mode": "ablate", "positions": [top.pos]}]
    same: dict[str, object] = (
        {"against": named_token(stack, attribution.against)} if attribution.against else {}
    )
    same |= {"chat": True} if request.chat else {}
    return [
        next_call(
            "intervene",
            sae=stack.entries[top.sae].handle,
            prompt=brief(request.prompt),
            edits=edits,
            target=named_token(stack, attribution.target),
            **same,
        )
    ]


TOOLS = [
    Tool(
        attribute_logit,
        AttributeLogit,
        ToolAnnotations(
            title="Explain a prediction",
            read_only_hint=True,
            destructive_hint=False,
            open_world_hint=False,
        ),
        group=Group.EXPLAIN,
        app=RESULT_APP,
    )
]
