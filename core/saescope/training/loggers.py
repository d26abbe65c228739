"""Weights & Biases and TensorBoard, when asked for: nothing is imported or sent otherwise."""

import netrc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from saescope.errors import ConfigError, cause_of
from saescope.extras import require_extra
from saescope.names import WANDB_QUIETED
from saescope.training.config import TrainConfig

Log = Callable[[int, Mapping[str, float | int]], None]
DEFAULT_HOSTS = {"api.wandb.ai", "api.forge.coreweave.com"}
"""Hosts that wandb sends to unless told otherwise, before and after it moved."""
_SAME = "the run's history has the same numbers."


def make_log(cfg: TrainConfig, folder: Path | None) -> Log | None:
    """Return a function of step and metrics, or None where nothing is logged.

    Raises:
        ConfigError: the library is not installed, knows no account, or does not start.
    """
    if cfg.logger == "none":
        return None
    require_logger(cfg.logger)
    try:
        return (_wandb if cfg.logger == "wandb" else _tensorboard)(cfg, folder)
    except (ImportError, OSError) as error:
        raise _failed(cfg.logger, error) from error


def make_logs(cfgs: Mapping[str, TrainConfig], folder: Path | None) -> dict[str, Log]:
    """What `make_log` gives, for each SAE of a set: a folder in TensorBoard; in wandb one run, in
    which each has its own step."""
    first = next(iter(cfgs.values()))
    if first.logger == "none":
        return {}
    require_logger(first.logger)
    try:
        if first.logger == "tensorboard":
            return {
                name: _tensorboard(cfg, folder / "logs" / name if folder else None)
                for name, cfg in cfgs.items()
            }
        return _wandb_of_set(cfgs, folder)
    except (ImportError, OSError) as error:
        raise _failed(first.logger, error) from error


def require_logger(logger: str, *, wandb_mode: str = "") -> None:
    """Nothing is imported or sent. `wandb_mode`: as the run will have it; by default WANDB_MODE.

    Raises:
        ConfigError: the library is not installed, or wandb is to send to an account that it does
            not know.
    """
    if logger == "none":
        return
    require_extra(
        logger, f"logger={logger}", field="logger", without=f"leave the logger out: {_SAME}"
    )
    mode = wandb_mode or os.environ.get("WANDB_MODE", "online")
    if logger == "wandb" and mode in ("online", "shared", "run") and not _has_login():
        raise ConfigError(
            "logger=wandb has no account to send to: nobody has logged in on this machine.",
            code="LOGIN_MISSING",
            field="logger",
            got=logger,
            hint="Run: wandb login, or set WANDB_API_KEY; WANDB_MODE=offline logs to files only. "
            f"Without the logger {_SAME}",
            facts={"logger": logger},
        )


def mode_of_wandb(*, offline: bool) -> str:
    """The mode of a run that asks for wandb: the user's WANDB_MODE, which the command line sets
    only where the user has not."""
    mode = "" if WANDB_QUIETED in os.environ else os.environ.get("WANDB_MODE", "")
    if mode == "disabled":
        return mode
    return "offline" if offline or mode in ("offline", "dryrun") else mode or "online"


def _has_login() -> bool:
    """Whether there is a login in the places that wandb reads: the environment, its settings (which
    may name another server: it must tell itself), and netrc."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    if Path("~/.config/wandb/settings").expanduser().exists():
        return True
    url = os.environ.get("WANDB_BASE_URL", "")
    hosts = {urlsplit(url).netloc} if url else DEFAULT_HOSTS
    places = [os.environ.get("NETRC", ""), "~/.netrc", "~/_netrc"]
    return any(hosts & _hosts_in(place) for place in places if place)


def _hosts_in(place: str) -> set[str]:
    try:
        return set(netrc.netrc(os.path.expanduser(place)).hosts)
    except (OSError, netrc.NetrcParseError):
        return set()


def _wandb(cfg: TrainConfig, folder: Path | None) -> Log:
    run = _wandb_run(cfg.name, cfg.to_dict() | {"chosen": cfg.chosen._asdict()}, folder)
    return lambda step, metrics: run.log(dict(metrics), step=step)


def _wandb_of_set(cfgs: Mapping[str, TrainConfig], folder: Path | None) -> dict[str, Log]:
    name = next(iter(cfgs.values())).name
    run = _wandb_run(name, {name: cfg.to_dict() for name, cfg in cfgs.items()}, folder)

    def log_of(member: str) -> Log:
        # wandb's own step may not fall, and the SAEs of a set are not all at the same one.
        run.define_metric(f"{member}/*", step_metric=f"{member}/step")
        return lambda step, metrics: run.log(
            {f"{member}/{key}": value for key, value in ({"step": step} | dict(metrics)).items()}
        )

    return {member: log_of(member) for member in cfgs}


def _wandb_run(name: str, config: dict[str, Any], folder: Path | None) -> Any:
    import wandb

    try:
        return wandb.init(
            project="saescope",
            name=name or None,
            config=config,
            resume="allow",
            dir=str(folder) if folder else None,
        )
    except wandb.Error as error:
        raise _failed("wandb", error) from error


def _tensorboard(cfg: TrainConfig, folder: Path | None) -> Log:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard") if folder else None)

    def log(step: int, metrics: Mapping[str, float | int]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return log


def _failed(logger: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{logger} does not start: {cause_of(error)}",
        code="LOGGER_FAILED",
        field="logger",
        got=logger,
        hint=f"Repair that, or leave the logger out: {_SAME}",
        facts={"logger": logger},
    )
