"""claim."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mcp.types import ToolAnnotations

from saescope.errors import ArgumentError, SaescopeError
from saescope.ledger import CHANGING, KeptEntry, Ledger, ResultFilter, judge_claim
from saescope.records.claims import ClaimVerdict, FeatureClaim
from saescope_mcp.groups import Group
from saescope_mcp.replies import RESULT_APP, Tool
from saescope_mcp.replies.tool import by_itself
from saescope_mcp.schemas.claim import ClaimReply, ClaimRequest
from saescope_mcp.schemas.common import Evidence, Provenance
from saescope_mcp.state import AppState
from saescope_mcp.tools.further import further_tests
from saescope_mcp.tools.results import void_shown

MOST_OTHERS = 400
"""How many of the newest tests of the SAE are looked at for what speaks against a claim."""
MOST_LISTED = 10
_EVIDENCE: Mapping[str | None, Evidence] = {
    None: "observed",
    "seen": "observed",
    "correlates": "correlational",
    "intervened": "intervened",
    "controlled": "controlled",
    "replicated": "controlled",
}


async def claim(state: AppState, request: ClaimRequest) -> ClaimReply:
    """Check a sentence about a feature against kept results before you write it: the level that
    they allow is computed (seen, correlates, intervened, controlled, replicated), words above it
    are refused, missing tests named with their calls, looks counted, and results that speak
    against it shown."""
    named, others, warnings = await state.keeper.ask(_entries, request)
    request = request.model_copy(update={"sae": request.sae or _their_sae(named)})
    done = judge_claim(_claim(request), named, others=others, weights=_weights_now(state, request))
    shown_ids = {each.result_id for each in done.contradicting[:MOST_LISTED]}
    await void_shown(state, [*named, *(each for each in others if each.result_id in shown_ids)])
    supporting = [each.result_id for each in done.checks if each.counts == "supports"]
    rests = [entry for entry in named if entry.result_id in supporting]
    origins = [origin for entry in rests if (origin := entry.document.get("provenance"))]
    shown = replace(done, contradicting=done.contradicting[:MOST_LISTED])
    return ClaimReply(
        summary=_summary(done, request),
        warnings=warnings,
        next=further_tests(request, done, rests or named),
        evidence=_EVIDENCE[done.level],
        provenance=Provenance.model_validate(origins[0]) if origins else None,
        **{name: getattr(shown, name) for name in ClaimVerdict.__dataclass_fields__},
    )


def _claim(request: ClaimRequest) -> FeatureClaim:
    fields = FeatureClaim.__dataclass_fields__
    return FeatureClaim(**{name: getattr(request, name) for name in fields})


def _weights_now(state: AppState, request: ClaimRequest) -> str:
    """The hash of the weights that the handle stands for, as far as it is in memory."""
    loaded = state.saes.get(request.sae)
    return loaded.weights_hash if loaded else ""


def _their_sae(named: Sequence[KeptEntry]) -> str:
    """The one SAE that the results are about.

    Raises:
        ArgumentError: they are about several, or none.
    """
    saes = [*dict.fromkeys(sae for entry in named for sae in entry.saes)]
    if len(saes) == 1:
        return saes[0]
    raise ArgumentError(
        "'sae' is missing: these results are about several SAEs or none.",
        code="MISSING_ARGUMENT",
        field="sae",
        allowed=", ".join(saes) or "a handle from load_sae",
        hint="Name the SAE of the claim's feature.",
    )


def _entries(
    ledger: Ledger, request: ClaimRequest
) -> tuple[list[KeptEntry], list[KeptEntry], list[str]]:
    """The results that the claim names, and the others about its SAE; damaged ones of these are
    said and left out."""
    ids = [*request.results]
    if request.investigation:
        ids += ledger.investigations.of(request.investigation).result_ids
    named = [ledger.bring(result_id) for result_id in dict.fromkeys(ids)]
    sae = request.sae or _their_sae(named)
    rows, total = ledger.find(ResultFilter(sae=sae, tools=CHANGING), limit=MOST_OTHERS)
    others, n_damaged = list[KeptEntry](), 0
    for row in rows:
        if row.result_id not in ids:
            try:
                others.append(ledger.bring(row.result_id))
            except SaescopeError:
                n_damaged += 1
    warnings = [f"{n_damaged} results of this SAE are damaged and were not looked at."]
    more = [f"Only the newest {MOST_OTHERS} of {total} tests of this SAE were looked at."]
    return named, others, warnings * bool(n_damaged) + more * (total > MOST_OTHERS)


def _summary(done: ClaimVerdict, request: ClaimRequest) -> str:
    # Words that are refused stand in the reasons alone: a summary says what is shown.
    said = [reason.partition(": '")[0] for reason in done.reasons]
    why = f": {'; '.join(said)}" if said else ""
    against = len(done.contradicting)
    more = f" {against} other result{'s' * (against != 1)} speak against it." if against else ""
    match done.verdict:
        case "refused":
            return f"Refused{why}.{more}"
        case "lowered":
            return f"Lowered to {done.level}{why}.{more}"
        case _:
            return f"Stands as {request.level}; the results allow {done.level}{why}.{more}"


TOOLS = [
    Tool(
        claim,
        ClaimRequest,
        ToolAnnotations(
            title="Check a claim",
            read_only_hint=True,
            destructive_hint=False,
            open_world_hint=False,
        ),
        group=Group.RECORD,
        prepare=by_itself,
        app=RESULT_APP,
    )
]
