"""Which published SAEs are on this machine already, from the layout of the Hugging Face cache.
Standard library only."""

import os
from pathlib import Path


def hub_cache() -> Path:
    """The folder in which huggingface_hub keeps its files, by the same environment variables in the
    same order."""
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if given:
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    return Path(home).expanduser() / "hub"


def snapshots(repo_id: str) -> Path:
    """The folder that holds the repository's files, one sub-folder for each commit."""
    return hub_cache() / f"models--{repo_id.replace('/', '--')}" / "snapshots"


def is_cached(repo_id: str, file: str) -> bool:
    """Whether that file of the repository is here, at any commit."""
    return any((commit / file).is_file() for commit in _commits(repo_id))


def is_cached_repository(repo_id: str) -> bool:
    """Whether any of its files is here."""
    return bool(_commits(repo_id))


def models_here() -> list[str]:
    """Names of the models whose configuration and weights are in the hub's cache; an SAE's
    repository seldom has a config.json at its root that names a causal language model."""
    folders = hub_cache().glob("models--*/snapshots/*/config.json")
    names = {
        config.parents[2].name.removeprefix("models--").replace("--", "/", 1)
        for config in folders
        if any(config.parent.glob("*.safetensors")) and _is_language_model(_head(config))
    }
    return sorted(names)


def _is_language_model(config: bytes) -> bool:
    return b"ForCausalLM" in config or b"LMHeadModel" in config


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(1 << 16)
    except OSError:
        return b""


def files_of(repo_id: str) -> set[str]:
    """All files of the repository that are here, at any commit."""
    commits = _commits(repo_id)
    return {
        file.relative_to(commit).as_posix()
        for commit in commits
        for file in commit.rglob("*")
        if file.is_file()
    }


def _commits(repo_id: str) -> list[Path]:
    try:
        return [*snapshots(repo_id).iterdir()]
    except OSError:
        return []
