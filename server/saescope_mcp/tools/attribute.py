"""attribute_logit."""

from typing import TYPE_CHECKING

from mcp.types import ToolAnnotations

from saescope.records.attribution import Attribution, Joint
from saescope_mcp.binding import next_call
from saescope_mcp.replies import Tool
from saescope_mcp.replies.facts import (
    brief,
    left_out,
    named_token,
    provenance,
    spread,
    stands_out,
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
    """Why the model predicts a token: the features that its logit rests on, each estimated and then
    measured by ablation; use it to explain a prediction. `joint` ablates all together and compares
    with random features of like activation; `error_share` is what the SAE does not see; `agreement`
    correlates estimate and measurement. Trust measured_effect over attribution."""
    async with state.use_all(request.handles) as stack:
        tokens, attribution = await _attribute(stack, request)
    labels = await labels_of_stack(stack, [(row.sae, row.feature) for row in attribution.features])
    return extended(
        AttributeLogitReply,
        attribution,
        summary=f"{_summary(attribution, stack)} "
        f"{left_out(attribution.n_left_out, [tokens], n_sinks=attribution.n_sinks)}",
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
        method=request.method,
        k=request.k,
        sign=request.sign,
        validate=request.validate_,
        n_controls=request.n_controls,
        seed=request.seed,
        include_special=request.include_special,
    )
    return tokens, attribution


def _evidence(attribution: Attribution) -> Evidence:
    if attribution.joint is None:
        return "correlational"
    return "controlled" if attribution.joint.n_controls else "intervened"


def _summary(attribution: Attribution, stack: LoadedStack) -> str:
    rank = (
        f" (the model's choice no. {attribution.target.rank})"
        if attribution.target.rank > 1
        else ""
    )
    what = f"logit of {attribution.target.token!r}{rank}" + (
        f" minus that of {attribution.against.token!r}" if attribution.against else ""
    )
    share = _in_errors(attribution, stack)
    if attribution.joint is None:
        return f"Features that the {what} is attributed to, not measured; {share}"
    return f"{_measured(attribution.joint, len(attribution.features), what)}; {share}"


def _in_errors(attribution: Attribution, stack: LoadedStack) -> str:
    shares = [
        (each.sae, each.error_share) for each in attribution.by_sae if each.error_share is not None
    ]
    if not shares:
        return "nothing is attributed."
    if attribution.error_share is not None:
        return f"{100 * attribution.error_share:.0f}% of the attribution lies in the SAE's error."
    listed = ", ".join(f"{100 * share:.0f}% ({stack.handle(sae)})" for sae, share in shares)
    return f"of each SAE's own attribution this much lies in its error: {listed}."


def _measured(joint: Joint, n: int, what: str) -> str:
    if stands_out(joint.measured_effect, joint.control_mean, joint.control_sd, joint.n_controls):
        who = f"Together the {n} listed features cause" if n > 1 else "The listed feature causes"
        effect = f"{joint.measured_effect:.3g} of the {what}, measured by ablation"
        return f"{who} {effect}{_beside(joint, sign=1)}"
    change = (
        f"Ablating what is listed, all together, changes the {what} by "
        f"{-joint.measured_effect:+.3g}"
    )
    return f"{change}: not clearly more than controls do{_beside(joint, sign=-1)}"


def _beside(joint: Joint, *, sign: int) -> str:
    """What controls do, counted as the sentence counts the effect: what features cause (1), or the
    change when they are ablated (-1)."""
    if joint.control_mean is None:
        return ""
    return (
        f" (as many other active features: {spread(sign * joint.control_mean, joint.control_sd)})"
    )


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
            idempotent_hint=True,
            open_world_hint=False,
        ),
    )
]
