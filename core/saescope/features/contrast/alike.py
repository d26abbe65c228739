"""Texts that are alike: passages of one document that stand beside each other, and sentences that
the two sets have in common but for a word."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.features.contrast.designs import Design

N_ORDERS = 199
ALIKE = 0.01
"""p below which it is said."""
LEAST_TEXTS = 6
SHARED = 0.5
"""Share of the words of two texts (their union) that makes them counterparts."""
AT_A_TIME = 1024


def neighbours_alike(
    design: Design, scores: Float[Tensor, "n_texts n_features"], seed: int
) -> bool:
    """Neighbours in a list have more similar features than texts of that list in random order:
    passages of one document, taken for independent texts, make differences out of nothing.

    Texts are compared by the cosine of their scores, each feature in its own standard deviations;
    the order is shuffled within each set.
    """
    if len(design.unit.unique()) < len(design.unit):
        return False  # documents are known
    rows = _unit_rows(design, scores.double())
    cosines = rows @ rows.T
    rng = torch.Generator().manual_seed(seed)
    sets = [part for part in design.sets() if len(part) >= LEAST_TEXTS]
    if not sets:
        return False
    observed = sum(_beside(cosines, part) for part in sets)
    beyond = sum(
        sum(_beside(cosines, part[torch.randperm(len(part), generator=rng)]) for part in sets)
        >= observed
        for _ in range(N_ORDERS)
    )
    return (beyond + 1) / (N_ORDERS + 1) <= ALIKE


def _unit_rows(
    design: Design, scores: Float[Tensor, "n_texts n_features"]
) -> Float[Tensor, "n_texts n_features"]:
    centred = design.centred(scores)
    scaled = centred / centred.std(0).clamp(min=1e-12)
    return scaled / scaled.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _beside(cosines: Float[Tensor, "n n"], order: Int[Tensor, " m"]) -> float:
    return float(cosines[order[:-1], order[1:]].sum())


def counterparts(
    words: Float[Tensor, "n_texts n_words"], first: Bool[Tensor, " n_texts"]
) -> Int[Tensor, " n_texts"]:
    """A number for each text; a text and its counterpart in the other set have the same: each is
    the other's nearest, of equals the one in the same place, and they share `SHARED` of their
    words.

    With "My sister ran" in the half that fits a probe and "My brother ran" in the half that tests
    it, the words that both have count for the wrong side: areas far below 0.5 come of it.
    """
    ones, others = first.nonzero()[:, 0], (~first).nonzero()[:, 0]
    share, theirs = _nearest(words[ones], words[others])
    _, ours = _nearest(words[others], words[ones])
    rows = torch.arange(len(ones))
    paired = (share >= SHARED) & (ours[theirs] == rows)
    numbers = torch.arange(len(first))
    numbers[others[theirs[paired]]] = numbers[ones[paired]]
    return numbers


def _nearest(
    own: Float[Tensor, "n n_words"], other: Float[Tensor, "m n_words"]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """For each text the largest share of words in common (Jaccard), and whose it is."""
    sizes, shares, places = other.sum(1), list[Tensor](), list[Tensor]()
    columns = other.T.float().contiguous()
    for start in range(0, len(own), AT_A_TIME):
        stop_if_cancelled()
        rows = own[start : start + AT_A_TIME]
        # sparse: of thousands of words a text has a few
        both = (rows.float().to_sparse() @ columns).double()
        share = both / (rows.sum(1, keepdim=True) + sizes - both).clamp(min=1)
        same = torch.arange(start, start + len(rows))[:, None] == torch.arange(len(other))
        places.append((share + same * 1e-9).argmax(1))
        shares.append(share.gather(1, places[-1][:, None])[:, 0])
    return torch.cat(shares), torch.cat(places)
