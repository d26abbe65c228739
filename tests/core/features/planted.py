"""An SAE whose features fire on known words, and texts made of words."""

import random
from collections.abc import Sequence

import torch

from saescope.models import LanguageModel
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE

WORDS = [
    " Queen",
    " King",
    " door",
    " child",
    " voice",
    " eyes",
    " room",
    " hand",
    " and",
    " herself",
    " himself",
    " question",
]
_PLAIN = (
    "said that with very little this look know have they would were like what "
    "could them again thought down there into about your then when"
)
FILLERS = [f" {word}" for word in _PLAIN.split()]


def planted_sae(model: LanguageModel, words: Sequence[str] = WORDS) -> SAE:
    """Feature i fires with about 1 on the token `words[i]` and nowhere else; it reads the embedding
    and writes the word's own unembedding.

    Each encoder row is the word's embedding, whitened, so that every other token stays below the
    bias.
    """
    ids = [model.single_token(word) for word in words]
    with torch.no_grad():
        embedding = model.bridge.original_model.get_input_embeddings().weight.detach()
        centred = embedding - embedding.mean(0)
        rows = torch.linalg.solve(
            centred.T @ centred / len(centred) + 1e-6 * torch.eye(centred.shape[1]), centred[ids].T
        ).T
        hits = embedding @ rows.T
        own = hits[ids].diag().clone()
        hits[ids, torch.arange(len(ids))] = -torch.inf
        other = hits.max(0).values
        assert bool((own > other).all())
        scale = 2 / (own - other)
        tensors = {
            "W_enc": (rows * scale[:, None]).T.contiguous(),
            "b_enc": -(own + other) / 2 * scale,
            "W_dec": model.readout.W_U.T[ids].clone(),
            "b_dec": torch.zeros(model.d_model),
        }
    meta = SAEMetadata(model_name=model.name, hook_name="blocks.0.hook_resid_pre", prepend_bos=True)
    cfg = StandardConfig(
        d_in=model.d_model, d_sae=len(words), apply_b_dec_to_input=False, metadata=meta
    )
    return StandardSAE(cfg, tensors)


def sentence(rng: random.Random, n_words: int, words: Sequence[str] = (), n: int = 1) -> str:
    """Random filler words, `n` of `words` among them."""
    chosen = [rng.choice(FILLERS) for _ in range(n_words)]
    for _ in range(n if words else 0):
        chosen.insert(rng.randrange(1, len(chosen)), rng.choice(list(words)))
    return "".join(chosen)


def corpus(n_texts: int, *, n_words: int = 40, share: float = 0.04, seed: int = 0) -> list[str]:
    """Texts in which each word of WORDS turns up now and then."""
    rng = random.Random(seed)
    return [
        "".join(
            rng.choice(WORDS) if rng.random() < share * len(WORDS) else rng.choice(FILLERS)
            for _ in range(n_words)
        )
        for _ in range(n_texts)
    ]
