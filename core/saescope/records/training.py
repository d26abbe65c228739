"""What a training run will take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Time, memory and disk of a run; speeds are None where it does not fit, so that nothing was
    tried."""

    tokens_per_s: float | None
    """The speed of the whole run: reading the text with the model, and training on it."""
    harvest_tokens_per_s: float
    step_tokens_per_s: float | None
    eta_s: float | None
    memory_bytes: int
    """What the run's process will hold at most, the language model included."""
    memory_free_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    fits: bool
    change: list[str]
    """What to change so that it fits, as arguments of the call."""
    load: float | None = None
    """Work that wanted each processor of the machine, this one's included, in the minute before the
    speeds were measured (1 is busy); None where nothing was measured or the system does not say."""

    n_saes: int = 1
    """SAEs that are trained on the same reading of the text."""
    n_passes: int = 1
    """Times that the text is read: once for as many SAEs as fit into memory together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Estimate):
    """An estimate, and what to beware of."""

    warnings: list[str]
