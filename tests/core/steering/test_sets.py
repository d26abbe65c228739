"""Features of several layers of a set changed in one call, against plain hooks."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saescope.hooks import edit_activations
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.sets import SAESet, load_set
from saescope.steering import FeatureEdit, intervene, steer

SET = Path(__file__).parent.parent.parent / "data" / "glassllm-transcoders"
TEXT = "The old man went to the sea and"


@pytest.fixture(scope="module")
def ours(glass: LanguageModel) -> SAESet:
    return load_set(SET, device="cpu").settled(glass)


def strongest(
    model: LanguageModel, ours: SAESet, layers: tuple[int, ...], n: int = 1
) -> list[FeatureEdit]:
    """Ablations of the features that fire most at the last position, so many a layer."""
    edits: list[FeatureEdit] = []
    ids = model.batch(model.tokenize(TEXT).ids)
    for layer in layers:
        member, seen = ours.members[layer], list[Tensor]()
        model.run(ids, [(member.read_hook, lambda x, hook, seen=seen: seen.append(x.clone()))])
        acts = member.sae.encode(seen[0][0])[-1]
        edits += [
            FeatureEdit(feature, mode="ablate", positions=(-1,), sae=layer)
            for feature in acts.topk(n).indices.tolist()
        ]
    return edits


def ablating(
    saes: Mapping[int, SAE], edits: list[FeatureEdit], positions: Callable[[Tensor], slice]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Hooks that read what arrives at each SAE in this very run, and take away what the feature
    writes there."""
    hooks: dict[str, Callable[[Tensor], Tensor]] = {}
    for layer in dict.fromkeys(edit.sae for edit in edits):
        sae, read = saes[layer], list[Tensor]()
        features = [edit.feature for edit in edits if edit.sae == layer]

        def look(x: Tensor, read: list[Tensor]) -> Tensor:
            read[:] = [x.clone()]
            return x

        def write(x: Tensor, read: list[Tensor], sae: SAE, features: list[int]) -> Tensor:
            acts, out = sae.encode(read[0][0])[:, features], x.clone()
            at = positions(acts)
            out[0, at] = x[0, at] - acts[at] @ sae.W_dec[features]
            return out

        meta = sae.cfg.metadata
        hooks[meta.hook_name] = partial(look, read=read)
        hooks[meta.hook_name_out] = partial(write, read=read, sae=sae, features=features)
    return hooks


def test_nodes_at_several_layers_are_ablated_in_one_call(
    glass: LanguageModel, ours: SAESet
) -> None:
    edits = strongest(glass, ours, (0, 2, 3))
    tokens = glass.tokenize(TEXT)
    saes = dict(enumerate(ours.saes))
    hooks = ablating(saes, edits, lambda acts: slice(len(acts) - 1, len(acts)))
    clean = glass.forward(glass.batch(tokens.ids))[0][0, -1]
    with edit_activations(glass, hooks):
        want = glass.forward(glass.batch(tokens.ids))[0][0, -1]
    target = int(clean.argmax())
    done = intervene(glass, ours.saes, tokens, edits, target=target, measure="logit", n_controls=2)
    assert done.effect == pytest.approx(float(want[target] - clean[target]), abs=1e-4)
    assert abs(done.effect) > 0.01
    assert done.after.top[0].id == int(want.argmax())


def test_a_text_is_written_with_features_of_several_layers_changed(
    glass: LanguageModel, ours: SAESet
) -> None:
    """Token by token without a cache, each layer's feature ablated wherever it fires but at
    position 0."""
    chosen = strongest(glass, ours, (0, 1, 2, 3), n=4)
    edits = [FeatureEdit(each.feature, mode="ablate", sae=each.sae) for each in chosen]
    tokens = glass.tokenize(TEXT)
    hooks = ablating(dict(enumerate(ours.saes)), edits, lambda acts: slice(1, None))
    ids = tokens.ids
    for _ in range(6):
        with edit_activations(glass, hooks):
            logits = glass.forward(glass.batch(ids))[0][0, -1]
        ids = torch.cat([ids, logits.argmax()[None]])
    done = steer(glass, ours.saes, tokens, edits, max_new_tokens=6, n_controls=0)
    want = "".join(glass.token_text(int(i)) for i in ids[len(tokens.ids) :])
    assert done.steered[0].text == want != done.baseline.text
