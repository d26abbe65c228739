"""What readers of the residual stream say, side by side, and whether that is more than chance."""

from dataclasses import dataclass

from saescope.verdicts import Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class LensFacts:
    """Where a lens comes from."""

    lens: str
    """"logit", "jacobian" (fitted here), or the name of a published one."""
    layers: list[int]
    """The layers that it can be read at, beside the last one, where it is the model itself."""
    n_prompts: int | None
    """The prompts that it was fitted on; None for the logit lens, which is not fitted."""
    n_tokens: int | None
    """The tokens of each prompt, where that is known."""
    corpus: str | None
    """The text that the prompts are from."""
    revision: str | None
    """The commit of a published one."""
    errors: list[float] | None = None
    """How uncertain the matrix of each layer is: its standard error over prompts, as a share of its
    norm; None where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPrediction:
    """A position, and what the model itself predicts after it."""

    text_index: int
    pos: int
    token: str
    predicts: list[str]
    """The model's most likely next tokens, best first."""
    next: str | None
    """The token that comes next in the text; None at its end."""
    next_rank: int | None
    """The rank that the model gives it; 1 is the most likely."""
    logit_from: int
    """The lowest layer from which on, at every layer up to the last, the logit lens's top token is
    the model's own, of all layers and not those alone that are listed."""
    jacobian_from: int | None
    """The same of the Jacobian lens, of the layers that it has a matrix for: never below its first;
    None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureThrough:
    """A feature at a position, and what it writes through the lens."""

    sae: int
    """Its SAE, by its place in the list that was given; 0 for one SAE alone."""
    feature: int
    activation: float
    promotes: list[str]
    """The tokens that its decoder row raises most, through the lens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLayer:
    """What the residual stream after one block says at one position, by each reader."""

    text_index: int
    pos: int
    layer: int
    logit: list[str]
    """The top tokens of the logit lens: as if the model ended here."""
    jacobian: list[str] | None
    """The top tokens of the Jacobian lens; None where only the logit lens is read."""
    logit_rank: int | None
    """The rank of the token that comes next in the text; 1 is the best."""
    jacobian_rank: int | None
    features: list[FeatureThrough]
    """The strongest features here of an SAE that writes at this layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderAgreement:
    """How far two readers name the same tokens, layer by layer, beside their controls."""

    readers: list[str]
    layers: list[int]
    overlap: list[float]
    """The share of the ten top tokens that they have in common, a mean over positions."""
    random: list[float]
    """The same where the lens is as strong, but turned to random directions."""
    shuffled: list[float]
    """The same where the two read different positions."""
    agree_at: list[int]
    """The layers where they have more in common than by either control."""
    n: int
    """The positions that were compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LensReading:
    """Readers side by side; the last layer is the model itself, and counts for nothing."""

    lens: LensFacts
    positions: list[ReadPrediction]
    layers: list[ReadLayer]
    """In reading order, each position with its layers."""
    agreement: list[ReaderAgreement]
    signal: Signal
    why: str
    """The verdict in a sentence, with what it rests on."""
    warnings: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LensTokens:
    """What a feature promotes and suppresses through a lens."""

    lens: str
    promotes: list[str]
    suppresses: list[str]
    layer: int
    """The layer whose matrix its decoder row goes through."""
    how: str
    """How it was computed, in one sentence."""
    error: float | None = None
    """The standard error of that matrix over the prompts of its fit, as a share of its norm; None
    where it is not known, or no matrix is used."""
