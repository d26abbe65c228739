"""Readers side by side at positions of texts: logit lens, Jacobian lens, and what the strongest
features write through it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from saescope.activations import EMBEDDED, ContextConfig, open_dataset, read_contexts
from saescope.errors import ArgumentError, NotFoundError
from saescope.lens.agree import BLOCK, LEAST_BLOCKS, agreement, judged
from saescope.lens.fit import HELD_OUT
from saescope.lens.lens import LOGIT, Lens, layer_written, logit_lens_of
from saescope.lens.rows import ReadAt, ReadRows, read_rows, top_ids
from saescope.lens.through import effects_through, reads_at
from saescope.models import LanguageModel, Tokens, counted, resolve_position
from saescope.models.analysis import read_vocabulary
from saescope.records.lens import FeatureThrough, LensReading, ReadLayer, ReadPrediction
from saescope.saes import SAE
from saescope.splice import write_hook
from saescope.untrusted import clean_token

MOST_LAYERS = 8
N_FEATURES = 3
N_PROMOTED = 3
MOST_SCORED = 64
"""Positions on which agreement is measured."""
ENOUGH = BLOCK * LEAST_BLOCKS
N_PASSAGES, PASSAGE_TOKENS = 2, 64
"""Passages that are read beside texts that are too short to say where readers agree."""


def read_lens(
    model: LanguageModel,
    texts: Sequence[Tokens],
    *,
    lens: Lens | None = None,
    saes: Sequence[SAE] = (),
    positions: Iterable[int] = (-1,),
    top_k: int = 5,
) -> LensReading:
    """What the residual stream says at positions of each text, layer by layer and reader by reader;
    without a `lens` the logit lens reads alone.

    Layers are those that the SAEs write at, or with fewer than two SAEs at most eight from the
    first to the last. Agreement is measured on all counted positions of the texts, and where these
    are few on passages of the embedded corpus that no lens is fitted on.

    Raises:
        ArgumentError: there is no text, or no such position.
        ModelError: the model cannot be read through a lens.
    """
    if not texts:
        raise ArgumentError(
            "No text is given.", code="MISSING_ARGUMENT", field="texts", hint="Give a text."
        )
    lens = lens or logit_lens_of(model)
    layers = layers_of(model, saes, lens)
    named = [
        ReadAt(i, resolve_position(position, len(tokens)))
        for i, tokens in enumerate(texts)
        for position in positions
    ]
    rows = read_rows(model, saes, texts, named, layers=range(model.n_layers))
    settled = _settled(model, rows, lens)
    scored, n_given = _scored(model, texts)
    compared = read_rows(model, saes, scored.texts, scored.places, layers=layers)
    found = agreement(model, lens, compared)
    signal, why = judged(lens, found, n_given)
    return LensReading(
        lens=lens.facts,
        positions=[
            _prediction(model, texts, rows, i, top_k=top_k, settled=settled)
            for i in range(len(rows.places))
        ],
        layers=[*_layers(model, saes, rows.at(layers), lens, top_k)],
        agreement=found,
        signal=signal,
        why=why,
        warnings=[*lens.warnings, *_unread(model, saes, lens)],
    )


def layers_of(model: LanguageModel, saes: Sequence[SAE], lens: Lens) -> list[int]:
    """The layers to read: those of several SAEs, else a spread that has the layer of the one."""
    of_saes = sorted({n for sae in saes if (n := layer_written(sae)) is not None})
    there = [n for n in range(model.n_layers) if reads_at(model, lens, n)]
    wanted = of_saes if len(of_saes) > 1 else there
    wanted = [n for n in wanted if n in there]
    if len(wanted) > MOST_LAYERS:
        step = (len(wanted) - 1) / (MOST_LAYERS - 1)
        spread = {wanted[round(i * step)] for i in range(MOST_LAYERS)}
        if len(of_saes) == 1 and of_saes[0] in there and of_saes[0] not in spread:
            inner = sorted(spread)[1:-1]
            spread.remove(min(inner, key=lambda n: abs(n - of_saes[0])))
            spread.add(of_saes[0])
        wanted = sorted(spread)
    return wanted


class _Scored(NamedTuple):
    """Texts, and the places in them on which agreement is measured."""

    texts: list[Tokens]
    places: list[ReadAt]


def _scored(model: LanguageModel, texts: Sequence[Tokens]) -> tuple[_Scored, int]:
    """Places of the given texts, and of passages where those are few; the number of the given."""
    kept = [*texts]
    places = [*_counted(kept, 0)]
    n_given = len(places)
    if n_given < ENOUGH:
        passages = _passages(model)
        kept += passages
        places += _counted(kept, len(texts))
    if len(places) > MOST_SCORED:
        step = len(places) / MOST_SCORED
        places = [places[int(i * step)] for i in range(MOST_SCORED)]
    return _Scored(kept, places), sum(place.text < len(texts) for place in places)


def _counted(texts: Sequence[Tokens], first: int) -> Iterator[ReadAt]:
    for i in range(first, len(texts)):
        mask = counted(texts[i], [], False)
        yield from (ReadAt(i, pos) for pos in mask.nonzero().flatten().tolist())


def _passages(model: LanguageModel) -> list[Tokens]:
    size = min(PASSAGE_TOKENS, model.n_ctx)
    cfg = ContextConfig(context_size=size, split="held_out", held_out=HELD_OUT)
    found = list[Tokens]()
    try:
        for part in read_contexts(model, open_dataset(EMBEDDED), cfg):
            whole = part[(part >= 0).all(1)].long()
            found += [_as_tokens(model, ids) for ids in whole[: N_PASSAGES - len(found)]]
            if len(found) == N_PASSAGES:
                break
    except NotFoundError:
        return []
    return found


def _as_tokens(model: LanguageModel, ids: Tensor) -> Tokens:
    special = torch.isin(ids, model.tokenizer.special_ids)
    strings = tuple(model.token_text(i) for i in ids.tolist())
    return Tokens(ids, special, strings, bool(ids[0] == (model.tokenizer.bos_id or -1)))


class _Settled(NamedTuple):
    """By row, the lowest layer from which on a reader's top token is the model's own."""

    logit: list[int]
    jacobian: list[int] | None


def _settled(model: LanguageModel, rows: ReadRows, lens: Lens) -> _Settled:
    own = rows.logits.argmax(-1)

    def lowest(fitted: bool) -> list[int]:
        found, so_far = torch.full_like(own, model.n_layers - 1), torch.ones_like(own).bool()
        # The last layer is the model itself; the bridge's head may differ from it by a rounding.
        for layer in range(model.n_layers - 2, -1, -1):
            if fitted and not reads_at(model, lens, layer):
                continue
            x = rows.residual[layer]
            read = read_vocabulary(model, lens.carry(x, layer) if fitted else x)
            so_far &= read.argmax(-1) == own
            found[so_far] = layer
        return found.tolist()

    return _Settled(lowest(False), lowest(True) if lens.is_fitted else None)


def _prediction(
    model: LanguageModel,
    texts: Sequence[Tokens],
    rows: ReadRows,
    i: int,
    *,
    top_k: int,
    settled: _Settled,
) -> ReadPrediction:
    place, following = rows.places[i], rows.next_ids[i]
    strings = texts[place.text].strings
    return ReadPrediction(
        text_index=place.text,
        pos=place.pos,
        token=strings[place.pos],
        predicts=_tokens(model, rows.logits[i], top_k),
        next=None if following is None else strings[place.pos + 1],
        next_rank=_rank(rows.logits[i], following),
        logit_from=settled.logit[i],
        jacobian_from=None if settled.jacobian is None else settled.jacobian[i],
    )


def _layers(
    model: LanguageModel, saes: Sequence[SAE], rows: ReadRows, lens: Lens, top_k: int
) -> Iterator[ReadLayer]:
    through = [_Through(model, sae, lens) for sae in saes]
    read = {
        layer: (
            read_vocabulary(model, x),
            read_vocabulary(model, lens.carry(x, layer)) if lens.is_fitted else None,
        )
        for layer, x in rows.residual.items()
    }
    for i, place in enumerate(rows.places):
        for layer, (logit, jacobian) in read.items():
            following = rows.next_ids[i]
            yield ReadLayer(
                text_index=place.text,
                pos=place.pos,
                layer=layer,
                logit=_tokens(model, logit[i], top_k),
                jacobian=None if jacobian is None else _tokens(model, jacobian[i], top_k),
                logit_rank=_rank(logit[i], following),
                jacobian_rank=None if jacobian is None else _rank(jacobian[i], following),
                features=[
                    FeatureThrough(
                        sae=n,
                        feature=feature,
                        activation=activation,
                        promotes=through[n].promotes(feature),
                    )
                    for n, sae in enumerate(saes)
                    if layer_written(sae) == layer
                    for feature, activation in rows.features[n][i][:N_FEATURES]
                ],
            )


class _Through:
    """What features of one SAE promote through a lens, each worked out once."""

    def __init__(self, model: LanguageModel, sae: SAE, lens: Lens) -> None:
        self.model, self.sae, self.lens = model, sae, lens
        self.known = dict[int, list[str]]()

    def promotes(self, feature: int) -> list[str]:
        if feature not in self.known:
            one = torch.tensor([feature], device=self.sae.device)
            effects = effects_through(self.model, self.sae, one, self.lens)
            self.known[feature] = (
                [] if effects is None else _tokens(self.model, effects[0], N_PROMOTED)
            )
        return self.known[feature]


def _tokens(model: LanguageModel, logits: Tensor, k: int) -> list[str]:
    return [clean_token(model.token_text(i)) for i in top_ids(logits[None], k)[0].tolist()]


def _rank(logits: Tensor, token: int | None) -> int | None:
    return None if token is None else 1 + int((logits > logits[token]).sum())


def _unread(model: LanguageModel, saes: Sequence[SAE], lens: Lens) -> Iterator[str]:
    """SAEs whose features cannot be read through the lens."""
    for sae in saes:
        layer, hook = layer_written(sae), write_hook(sae)
        if layer is None or not reads_at(model, lens, layer):
            yield f"The lens has no matrix for the SAE at {hook}: its features are not read."
        elif model.residual_map(write_hook(sae)) is None:
            yield f"What the SAE at {hook} writes is no linear change of the residual stream."


__all__ = ["LOGIT", "layers_of", "read_lens"]
