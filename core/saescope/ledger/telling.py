"""What the sentence of a claim says beside its fields, and why it may not be written."""

import re
from collections.abc import Iterator, Sequence

from saescope.ledger.entry import KeptEntry
from saescope.ledger.found import same_words, tokens_in
from saescope.ledger.naming import other_models, other_units, unknown_numbers, wrong_ps
from saescope.ledger.words import (
    absolute_words,
    compares,
    denied,
    factors_told,
    is_of_size,
    layers_named,
    nats_in_words,
    nats_told,
    other_features,
    plain,
    prompts_told,
    quoted,
    shares_told,
    told_direction,
    words_above,
)
from saescope.records.claims import FeatureClaim, FeatureTest


def refusals(
    claim: FeatureClaim,
    supports: Sequence[FeatureTest],
    *,
    level: int,
    order: tuple[str, ...],
    named: Sequence[KeptEntry],
    ps: Sequence[float],
) -> list[str]:
    """Why a claim's text may not stand above its fields; `ps` are the p values that its results and
    looks have."""
    quotable = [*_texts_of([[entry.arguments, entry.summary] for entry in named])]
    text = plain(claim.text)
    found = [*_beside_fields(claim, text, quotable), *_direction(claim, text)]
    found += _models(claim, text, named)
    if level < 0:
        return found
    found += [*_numbers(text, supports), *_sizes(claim, text, supports), *_shares(text, quotable)]
    found += [f"the text says {p!r}, which is no p of its results" for p in wrong_ps(text, ps)]
    documents = [[entry.arguments, entry.document] for entry in named]
    found += [
        f"the text has the number {each}, which none of its results has"
        for each in unknown_numbers(text, documents)
    ]
    above: dict[str, list[str]] = {}
    for word, needed in words_above(text, level, order):
        above.setdefault(needed, []).append(repr(word))
    found += [
        f"words of the level {needed}, where the results allow {order[level]}: "
        f"{', '.join(dict.fromkeys(words))}"
        for needed, words in above.items()
    ]
    if absolute := absolute_words(text):
        found.append(
            "words that no number of tests shows (say on how many prompts): "
            f"{', '.join(map(repr, absolute))}"
        )
    return found


def _beside_fields(claim: FeatureClaim, text: str, quotable: Sequence[str]) -> Iterator[str]:
    """What the text names that the fields do not."""
    for other in other_features(text, claim.feature):
        yield f"the text names feature {other}, the claim is about {claim.feature}"
    tokens = {*tokens_in(claim.effect), *tokens_in(claim.against)}
    spelled = {token.strip().casefold() for token in tokens}
    for each in quoted(text):
        is_text = len(each.split()) > 1 and any(each in other for other in quotable)
        known = is_text or each.strip().casefold() in spelled
        if not known:
            yield f"the text names another token or text than the claim: {each!r}"
    where = re.search(r"/(\d+)\.", claim.sae)
    for layer in layers_named(text):
        if where and layer != int(where[1]):
            yield f"the text names layer {layer}, the SAE is of layer {where[1]}"
    if claim.against and not _names_against(claim, text):
        yield f"the text does not say against what: {claim.against!r}"


def _names_against(claim: FeatureClaim, text: str) -> bool:
    """Whether it says what the effect is against: in quotes, or after a word of comparison."""
    in_quotes = {each.strip().casefold() for each in quoted(text)}
    words = {*re.findall(r"\S+", text.casefold().replace(".", " "))}
    tokens = [token.strip().casefold() for token in tokens_in(claim.against)]
    compared = words if compares(text) else set[str]()
    return all(token in in_quotes | compared for token in tokens)


def _direction(claim: FeatureClaim, text: str) -> Iterator[str]:
    if words := denied(text):
        yield f"the text denies what the claim says: {words!r}"
    told = told_direction(text)
    if claim.direction != "fires" and told and told != claim.direction:
        yield f"the text says that it {told} it, the claim says {claim.direction}"


def _numbers(text: str, supports: Sequence[FeatureTest]) -> Iterator[str]:
    """Numbers of the text that its results do not have."""
    n = len({same_words(prompt) for test in supports for prompt in test.prompts})
    n = max([n, *(test.n_prompts for test in supports)])
    if prompts_told(text) > n:
        yield f"the text says {prompts_told(text)} prompts, its results have {n}"
    sizes = [test.size for test in supports if test.size is not None]
    for told in nats_told(text):
        if not is_of_size(told, sizes):
            there = ", ".join(f"{size:+.3g}" for size in sizes[:3])
            yield f"the text says {told} nats, its results say {there or 'no size'}"


def _models(claim: FeatureClaim, text: str, named: Sequence[KeptEntry]) -> Iterator[str]:
    """Models that its results are not of."""
    origins = [entry.document.get("provenance") or {} for entry in named]
    own = [claim.sae, *(origin.get("model", "") for origin in origins)]
    for other in other_models(text, own):
        yield f"the text names the model {other}, its results are of {claim.sae.partition('/')[0]}"


def _sizes(claim: FeatureClaim, text: str, supports: Sequence[FeatureTest]) -> Iterator[str]:
    """Sizes with the sign of the other direction, or in units that its results do not have."""
    way = "-" if claim.direction == "lowers" else "+"
    for told in nats_told(text):
        sign = told[0].replace("\N{MINUS SIGN}", "-")
        same = [test.size for test in supports if test.size and (test.size > 0) == (sign == "+")]
        if sign in "+-" and sign != way and not is_of_size(told, same):
            yield f"the text says {told} nats, the claim that it {claim.direction} it"
    for words in nats_in_words(text):
        yield f"the text tells a size in words: {words!r}"
    for unit in other_units(text):
        yield f"the text tells a size in {unit}, its results are in nats or logits"


def _texts_of(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts_of(item)


def _shares(text: str, quotable: Sequence[str]) -> Iterator[str]:
    """Sizes in a form that no result of the claim has."""
    for share in shares_told(text):
        if not any(f"{share}%" in said.replace(" %", "%") for said in quotable):
            yield f"the text says {share} %, which its results do not: say it in nats"
    for factor in factors_told(text):
        yield f"the text tells a factor, which its results do not: say it in nats: {factor!r}"
