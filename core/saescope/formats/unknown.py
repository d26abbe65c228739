"""What is said of a folder, a file or a repository that holds no SAE that saescope reads."""

from pathlib import Path

from saescope.errors import FormatError, NotFoundError
from saescope.fence import check_regular
from saescope.formats import DIALECTS
from saescope.formats.detect import children, folders
from saescope.formats.pickles import ENDINGS, SETTING, is_allowed, open_pickle
from saescope.formats.source import FileSource, join
from saescope.names import nearest

_SAELENS_FILES = ("cfg.json", "sae_weights.safetensors")
_PICKLES = (*ENDINGS, ".bin", ".pkl", ".ckpt")


def unknown_locally(place: Path, source: FileSource) -> NotFoundError | FormatError:
    """Explain why no format reads a place on this disk."""
    files = {source.path} if source.path else children(source.names, "")
    missing = sorted(set(_SAELENS_FILES) - files)
    if len(missing) < len(_SAELENS_FILES):
        folder = place.absolute() if not source.path else place.absolute().parent
        check_regular(folder / missing[0])
        return NotFoundError(
            f"The folder {folder.name!r} has no {missing[0]}.",
            code="FILE_MISSING",
            field="path",
            got=sorted(files)[:10],
            allowed=_SAELENS_FILES,
            hint=f"Put {missing[0]} into it, or give the folder that holds both.",
        )
    below = [folder for folder in folders(source.names) if folder]
    pickles = _pickles(source)
    if pickles and (source.path in pickles or not below):
        return _unknown_pickle(source, pickles[0], "path")
    return _unknown(repr(place.name), sorted(files), "path", below)


def unknown_remotely(source: FileSource) -> NotFoundError | FormatError:
    """Explain why no format reads a path in a repository on the hub."""
    inside, held = children(source.names, source.path), folders(source.names)
    if (
        source.path
        and source.path not in source.names
        and not any(name.startswith(f"{source.path}/") for name in source.names)
    ):
        close = nearest(source.path, held, 5) or held[:5]
        return NotFoundError(
            f"{source.repo_id} has no {source.path!r}. Nearest: {', '.join(close) or 'none'}.",
            code="SAE_NOT_FOUND",
            field="sae_id",
            got=source.path,
            allowed=close,
            hint=f'Call ss.load_sae(release="{source.repo_id}", sae_id="{close[0]}").'
            if close
            else "Check the repository's list of files.",
        )
    below = [
        folder for folder in held if folder.startswith(f"{source.path}/" if source.path else "")
    ]
    pickles = _pickles(source)
    if pickles and not below:
        return _unknown_pickle(source, pickles[0], "sae_id")
    return _unknown(f"{source.repo_id}/{source.path}".rstrip("/"), sorted(inside), "sae_id", below)


def _pickles(source: FileSource) -> list[str]:
    """The pickle that the path names, or those in its folder."""
    if source.path in source.names:
        return [source.path] if source.path.endswith(_PICKLES) else []
    inside = sorted(children(source.names, source.path))
    return [join(source.path, name) for name in inside if name.endswith(_PICKLES)]


def _unknown_pickle(source: FileSource, name: str, field: str) -> FormatError:
    """A .pt file of none of the forms: what it holds, if it may be opened."""
    base = name.rpartition("/")[2]
    if not name.endswith(ENDINGS):
        return FormatError(
            f"{base} is a pickle of a kind that saescope never opens (only "
            f"{' and '.join(ENDINGS)}, if {SETTING} allows it).",
            code="PICKLE_REFUSED",
            field=field,
            got=name,
            hint="Convert it to safetensors in an environment that you trust.",
        )
    if not is_allowed():
        return FormatError(
            f"{base} is a pickle: loading it can run code, so saescope does not unless "
            f"{SETTING} allows it.",
            code="PICKLE_REFUSED",
            field=field,
            got=name,
            hint=f"Set {SETTING}=1 to let a confined process of saescope's own convert it; "
            "by its name it is of no format that "
            "saescope reads, so it will then say what the file holds.",
        )
    with open_pickle(source, name) as weights:
        held = [f"{tensor} {list(info.shape)}" for tensor, info in sorted(weights.header.items())]
        held += [f"{value}={number!r}"[:60] for value, number in sorted(weights.values.items())]
    return FormatError(
        f"{base} is of no format that saescope reads. It holds "
        f"{', '.join(held[:12])}{' ...' if len(held) > 12 else ''}.",
        code="UNKNOWN_FORMAT",
        field=field,
        got=name,
        allowed=[dialect.name for dialect in DIALECTS],
        hint="Give it the name and the neighbours that its format has (docs/formats.md: "
        "config.json next to ae.pt, layerN.sae.pt, "
        "<model>-SAE-lN.pt ...), or convert it to cfg.json and sae_weights.safetensors.",
    )


def _unknown(where: str, files: list[str], field: str, below: list[str]) -> FormatError:
    hint = (
        "Give the folder that holds cfg.json and sae_weights.safetensors, or the files of "
        "another dialect that saescope reads."
    )
    if below:
        hint = f"{len(below)} SAEs lie further down: give one of them, such as {below[0]!r}."
    return FormatError(
        f"{where} holds no SAE that saescope reads.",
        code="UNKNOWN_FORMAT",
        field=field,
        got=files[:10],
        allowed=below[:5] or [dialect.name for dialect in DIALECTS],
        hint=hint,
    )
