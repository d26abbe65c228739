"""What many replies say alike: what the numbers were computed with, and what was left out of
them."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel

from saescope import __version__
from saescope_mcp.binding import next_call
from saescope_mcp.schemas.bounds import invisible
from saescope_mcp.schemas.common import Provenance, SAEUsed
from saescope_mcp.state import LoadedSAE, LoadedSet, LoadedStack

if TYPE_CHECKING:
    from saescope.models import Tokens
    from saescope.records.controls import Comparison
    from saescope.records.prediction import TargetLogit


N_FIRST = 4
"""Words at position 0 that are named."""


def provenance(
    used: LoadedSAE | LoadedStack | LoadedSet,
    seed: int | None = None,
    *,
    files: Mapping[str, str] | None = None,
) -> Provenance:
    """The provenance of what one SAE, several of one model, or a set computed, from these texts of
    files, if any."""
    entries = used.entries if isinstance(used, LoadedStack) else (used,)
    only, model = entries[0] if len(entries) == 1 else None, used.model
    return Provenance(
        model=model.name,
        revision=model.revision,
        model_hash=used.slot.weights_hash,
        sae=only and only.handle,
        weights_hash=only and only.weights_hash,
        saes=[]
        if only
        else [
            SAEUsed(sae=each.handle, weights_hash=each.weights_hash)
            for each in entries
            if isinstance(each, LoadedSAE)
        ],
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        seed=seed,
        files=dict(files or {}),
        versions=versions(),
    )


@cache
def versions() -> dict[str, str]:
    """The version of everything that the numbers may depend on."""
    by_package = {"saescope": __version__, "python": python_version()}
    for name in ("torch", "transformers", "transformer-lens", "tokenizers", "safetensors"):
        try:
            by_package[name] = version(name)
        except PackageNotFoundError:
            by_package[name] = "missing"
    return by_package


def beside(control: "Comparison", who: str) -> str:
    """What controls do, in brackets, and whether the effect is outside them; nothing without
    controls."""
    from saescope.controls import ENOUGH

    if control.mean is None or control.p is None:
        return ""
    spread = f"{control.mean:.3g}" + (f" ± {control.sd:.2g}" if control.sd is not None else "")
    if control.outside:
        rule = f"outside these, p {control.p:.2g}"
    elif control.n < ENOUGH:
        rule = f"too few to tell: n_controls={ENOUGH} is enough"
    else:
        rule = f"not outside these, p {control.p:.2g}"
    return f" ({control.n} {who}: {spread}; {rule})"


def quantity_of(measure: str, target: "TargetLogit", against: "TargetLogit | None") -> str:
    """What effects are effects on, in words."""
    name = {"logprob": "log-probability", "logit": "logit"}.get(measure, "logit")
    other = f" minus that of {against.token!r}" if against else ""
    return f"{name} of {target.token!r}{other}"


def percent(share: float) -> str:
    """A share in two digits; one that is nearly all keeps a third."""
    return f"{100 * share:.{2 if share < 0.995 else 3}g}%"


def left_out(
    n_left_out: int,
    tokens: "Sequence[Tokens]",
    *,
    named: bool = False,
    n_sinks: int = 0,
    count_it: str = "include_special=true",
    chat: bool = False,
) -> str:
    """A sentence for the summary; `count_it`: what makes the call include position 0."""
    bos = "With BOS" if tokens[0].bos_prepended else "No BOS"
    if not n_left_out:
        return f"{bos}; no position is left out."
    if named:
        return f"{bos}; left out: all positions but those named."
    more = n_left_out > len(tokens)
    which = [f"position 0{_first_of(tokens, count_it)}"]
    which += ["special tokens"] if more else []
    which += ["the chat template"] if chat else []
    which += ["attention sinks"] if n_sinks else []
    listed = " and ".join([", ".join(which[:-1]), which[-1]] if which[1:] else which)
    return f"{bos}; left out: {listed}{f' ({n_left_out} in all)' if more else ''}."


def _first_of(tokens: "Sequence[Tokens]", count_it: str) -> str:
    """The word that stands at position 0, which no BOS keeps free, and what makes the call include
    it."""
    words = [each.strings[0] for each in tokens if len(each) and not bool(each.special[0])]
    if not words or tokens[0].bos_prepended:
        return ""
    names = [*dict.fromkeys(repr(word.strip() or word) for word in words)]
    more = f" and {len(names) - N_FIRST} others" if len(names) > N_FIRST else ""
    shown = f"{', '.join(names[:N_FIRST])}{more}"
    return f" ({shown}; to include it: {count_it})"


@runtime_checkable
class Counts(Protocol):
    """What an SAE counts of the texts, and what it leaves out for its norm."""

    @property
    def n_tokens(self) -> int: ...

    @property
    def n_sinks(self) -> int: ...


def many_sinks_of(stack: LoadedStack, counts: Sequence[Counts]) -> list[str]:
    """A warning for each SAE at whose site many positions are out of proportion."""
    from saescope.sinks import many_sinks

    return [
        f"{handle}: {warning}" if (handle := stack.handle(n)) else warning
        for n, each in enumerate(counts)
        for warning in many_sinks(each.n_sinks, each.n_tokens)
    ]


def nothing_left(n_tokens: int) -> list[str]:
    """A warning if every position was left out."""
    return (
        []
        if n_tokens
        else [
            "Every position was left out (position 0 and special tokens): use a longer "
            "text or include_special=true."
        ]
    )


MOST_ECHOED = 120
"""Characters of the user's text that a suggested call repeats."""


def brief(text: str) -> str:
    """A prompt as it stands in a suggested call; a long one is not repeated."""
    return text if len(text) <= MOST_ECHOED else "..."


def brief_all(texts: Sequence[str]) -> list[str]:
    """Texts as they stand in a suggested call; many are not repeated."""
    return [*texts] if sum(map(len, texts)) <= MOST_ECHOED else ["..."]


def read_on(tool: str, request: BaseModel, offset: int) -> str:
    """The call that reads on from there; texts of the user are not repeated."""
    arguments: dict[str, Any] = request.model_dump(exclude_defaults=True, exclude={"wait_s"}) | {
        "offset": offset
    }
    for name in {"text", "texts", "against"} & arguments.keys():
        arguments[name] = "..." if name == "text" else ["..."]
    return next_call(tool, **arguments)


def named_token(stack: LoadedStack, token: "TargetLogit") -> str:
    """A token as a further call names it: as text where that text is this one token and may stand
    in an argument (a line break may not), else by its number."""
    from saescope.errors import ArgumentError

    model = stack.model
    try:
        read = model.tokenizer.single(token.token, model.d_vocab, "target")
        same = invisible(token.token) is None and bool(token.token) and read == token.id
    except ArgumentError:
        same = False
    return token.token if same else f"#{token.id}"


def feature_url(loaded: LoadedSAE, feature: int) -> str | None:
    """Its page on Neuronpedia, for an SAE that is there."""
    neuronpedia_id = loaded.sae.cfg.metadata.neuronpedia_id
    return f"https://www.neuronpedia.org/{neuronpedia_id}/{feature}" if neuronpedia_id else None
