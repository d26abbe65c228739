"""compare_prompts."""

from typing import TYPE_CHECKING

from mcp.types import ToolAnnotations

from saescope.errors import ArgumentError
from saescope.records.pairs import Closed, PairComparison, PatchedFeature
from saescope_mcp.binding import next_call
from saescope_mcp.groups import Group
from saescope_mcp.replies import Tool
from saescope_mcp.replies.facts import beside, brief, named_token, provenance
from saescope_mcp.replies.labels import labels_of_stack
from saescope_mcp.replies.rows import extended, names_of
from saescope_mcp.schemas.common import Evidence
from saescope_mcp.schemas.pairs import (
    ComparePrompts,
    ComparePromptsReply,
    PatchedRow,
    PatchOf,
)
from saescope_mcp.state import AppState, LoadedStack, void_quizzes

if TYPE_CHECKING:
    from saescope.models import Tokens


async def compare_prompts(state: AppState, request: ComparePrompts) -> ComparePromptsReply:
    """Which features make prompt b predict something else than prompt a: those that differ at
    aligned tokens are patched from b into a, all, the strongest together and each alone, beside
    random ones and the SAE's error. Use two prompts that differ in one thing."""
    async with state.use_all(request.handles) as stack:
        tokens = [await _tokens(stack, request, name) for name in ("a", "b")]
        await stack.slot.run(void_quizzes, [request.a, request.b])
        found = await _compare(stack, request, tokens)
    labels = await labels_of_stack(stack, [(row.sae, row.feature) for row in found.features])
    return extended(
        ComparePromptsReply,
        found,
        summary=_summary(found),
        warnings=[
            *found.warnings,
            *stack.disagreement(chat=request.chat),
            *labels.warnings,
        ],
        next=_next(request, found, stack),
        evidence=_evidence(found),
        provenance=provenance(stack, request.seed),
        features=[
            extended(PatchedRow, row, **names_of(stack, labels, row.sae, row.feature))
            for row in found.features
        ],
        truncated=len(found.features) < found.total,
        by_sae=[
            extended(PatchOf, each, sae=handle)
            for each in found.by_sae
            if (handle := stack.handle(each.sae))
        ],
        bos_prepended=tokens[0].bos_prepended,
    )


async def _tokens(stack: LoadedStack, request: ComparePrompts, name: str) -> "Tokens":
    try:
        tokens = await stack.reader.tokenize([getattr(request, name)], chat=request.chat)
    except ArgumentError as error:
        error.field = name if error.field == "text" else error.field
        raise
    return tokens[0]


async def _compare(
    stack: LoadedStack, request: ComparePrompts, tokens: "list[Tokens]"
) -> PairComparison:
    from saescope.search import compare_prompts as compare

    return await stack.slot.run(
        compare,
        stack.model,
        stack.saes,
        *tokens,
        target=request.target or None,
        against=request.against or None,
        k=request.k,
        n_controls=request.n_controls,
        seed=request.seed,
        include_special=request.include_special,
    )


def _evidence(found: PairComparison) -> Evidence:
    if not found.features:
        return "observed"
    return "controlled" if found.control.n else "intervened"


def _summary(found: PairComparison) -> str:
    what = f"logit({found.target.token!r}) - logit({found.against.token!r})"
    said = (
        f"{what} is {found.difference_a:.3g} on a and {found.difference_b:.3g} on b (KL "
        f"{found.kl:.2g} nats). What carries it: {found.verdict.level} ({found.verdict.why})."
    )
    if not found.features:
        return said
    best = _strongest(found)
    alone = _share(Closed(difference=best.closed, kl=best.closed_kl))
    moved = beside(found.placebo, "moves as long in random directions")
    return (
        f"{said} Alone feature {best.feature} at {best.token_b!r} closes most, {alone}. Patches go "
        "from b into a; beside the listed, by the smaller of both shares, are controls"
        f"{beside(found.control, 'random choices of others')}{moved}; the SAE's error alone closes "
        f"{_share(found.error)}, features and error {_share(found.whole)}."
    )


def _strongest(found: PairComparison) -> PatchedFeature:
    """By the smaller of both shares: one that leads away from b carries nothing."""
    from saescope.search.judging import share_of

    return max(
        found.features,
        key=lambda row: share_of(Closed(difference=row.closed, kl=row.closed_kl)) or 0.0,
    )


def _share(closed: Closed) -> str:
    """A share of the logit difference, and of the KL."""
    of_kl = "" if closed.kl is None else f"{closed.kl:.2f} of the KL"
    if closed.difference is None:
        return of_kl or "nothing that can be told"
    return f"{closed.difference:.2f}" + (f" ({of_kl})" if of_kl else "")


def _next(request: ComparePrompts, found: PairComparison, stack: LoadedStack) -> list[str]:
    if not found.features:
        return [next_call("encode_text", **request.named, texts=[brief(request.a), "..."])]
    best = _strongest(found)
    # It is ablated where it fires, at all positions at which it carries the difference.
    same = [row for row in found.features if (row.sae, row.feature) == (best.sae, best.feature)]
    on_b = best.activation_b >= best.activation_a
    positions = (
        [row.pos_b for row in same if row.activation_b > 0]
        if on_b
        else [row.pos_a for row in same if row.activation_a > 0]
    )
    prompt = brief(request.b if on_b else request.a)
    sae = stack.entries[best.sae].handle
    tokens: dict[str, object] = {
        "target": named_token(stack, found.target),
        "against": named_token(stack, found.against),
    }
    edit = {"feature": best.feature, "mode": "ablate", "positions": sorted(positions)}
    chat: dict[str, object] = {"chat": True} if request.chat else {}
    return [
        next_call("describe_feature", sae=sae, feature=best.feature),
        next_call("intervene", sae=sae, prompt=prompt, edits=[edit], **tokens, **chat),
    ]


TOOLS = [
    Tool(
        compare_prompts,
        ComparePrompts,
        ToolAnnotations(
            title="Compare two prompts",
            read_only_hint=True,
            destructive_hint=False,
            open_world_hint=False,
        ),
        group=Group.BENCH,
    )
]
