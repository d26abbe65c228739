"""What a number of processes can share evenly."""

from saescope.errors import ConfigError
from saescope.training.config import TrainConfig


def require_shares(cfg: TrainConfig, n: int) -> None:
    """Raises ConfigError where `n` processes cannot share a run of these settings."""
    if n == 1:
        return
    if not cfg.shard_features:
        _require_even("batch_size", cfg.chosen.batch_size, n)
        return
    if not cfg.recipe.ranks or cfg.chosen.revival not in ("auxk", "none"):
        raise ConfigError(
            f"Features of a {cfg.architecture} SAE with revival={cfg.chosen.revival} cannot be "
            "spread over processes.",
            code="CONFLICTING_ARGUMENTS",
            field="shard_features",
            got=True,
            allowed="topk, batchtopk and matryoshka_batchtopk with revival auxk or none",
            hint="Leave shard_features out: the processes then share the batch.",
        )
    _require_even("d_sae", cfg.d_sae, n)


def _require_even(field: str, value: int, n: int) -> None:
    if value % n:
        raise ConfigError(
            f"{n} processes cannot share {field}={value} evenly.",
            field="nproc",
            got=n,
            allowed=f"a divisor of {field}={value}",
            hint=f"Take {field}={-(-value // n) * n}, or another nproc.",
        )
