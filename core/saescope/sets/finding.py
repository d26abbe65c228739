"""Which SAEs a set is made of: the files and folders of one place, a layer each."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from saescope import catalogue, hub
from saescope.errors import FormatError, NotFoundError
from saescope.fence import check_inside
from saescope.formats.detect import files_in, folders
from saescope.formats.source import FileSource, join, local_source
from saescope.hub import Fetch
from saescope.layers import ANY, choose, number_by, number_in
from saescope.load import LocatedSAE, in_repository, locate
from saescope.sets.member import MemberSource

CONFIG = "config.yaml"
MOST_LAYERS = 512


class UnreadMember(NamedTuple):
    """A member before anything of it is read."""

    place: MemberSource
    locate: Callable[[], LocatedSAE]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the caller says of the set."""

    layers: frozenset[int] | None
    known: Mapping[str, Any]
    """{layer} in it stands for each member's layer."""
    fetch: Fetch
    repositories: dict[tuple[str, str], hub.Repository] = field(
        default_factory=dict[tuple[str, str], hub.Repository]
    )
    """Those that were asked for already: the hub is asked once for each."""

    def of(self, layer: int) -> dict[str, Any]:
        """What the caller says of one layer."""
        return {
            key: value.replace(ANY, str(layer)) if isinstance(value, str) else value
            for key, value in self.known.items()
        }

    def repository(self, repo_id: str, revision: str = "") -> hub.Repository:
        """The repository at a revision, at the caller's if none is given."""
        key = (repo_id, revision)
        if key not in self.repositories:
            fetch = self.fetch._replace(revision=revision) if revision else self.fetch
            self.repositories[key] = hub.repository(repo_id, **fetch._asdict())
        return self.repositories[key]


class Setting(NamedTuple):
    """What the `config.yaml` of a set that refers to others says for all its members."""

    input_hook: str = ""
    output_hook: str = ""


def find_locally(path: Path, asked: Asked) -> tuple[dict[int, UnreadMember], Setting]:
    """The members below a folder on this disk, or of a path with {layer} in it, by layer."""
    if ANY in str(path):
        places = _matching(path)
        chosen = choose(_one_each(places, str(path)), asked.layers, str(path))
        return {layer: _local(Path(place), layer, asked) for layer, place in chosen.items()}, (
            Setting()
        )
    source = local_source(path.parent if path.is_file() else path, n_below=3)
    root = path.parent if path.is_file() else path
    if references := _references(source, ""):
        return _referred(references, source.yaml(CONFIG), asked)
    names = _names(source.names, "")
    chosen = choose(_one_each(names, ""), asked.layers, str(path))
    return {layer: _local(root / name, layer, asked) for layer, name in chosen.items()}, Setting()


def find_on_hub(release: str, inside: str, asked: Asked) -> tuple[dict[int, UnreadMember], Setting]:
    """The members of a release of the catalogue, or of a folder of the repository `owner/name`, by
    layer; {layer} in `inside` stands for the number of the layer, and "*" for what differs
    beside it."""
    if "/" not in release:
        return _in_release(release, inside, asked), Setting()
    hub.resolve(release, inside)  # refuses what is no repository, or leads out of it
    repository = asked.repository(release)
    source = FileSource(opener=repository.open, local=repository.local, names=repository.names)
    inside = inside.strip("/")
    if ANY in inside:
        every = [*folders(repository.names), *_files(repository.names)]
        numbers = {name: number_by(inside, name) for name in every}
        names = {name: n for name, n in numbers.items() if n is not None}
    else:
        folder = inside.rpartition("/")[0] if inside in repository.names else inside
        if references := _references(source, folder):
            return _referred(references, source.yaml(join(folder, CONFIG)), asked)
        names = _names(repository.names, folder)
    chosen = choose(_one_each(names, inside), asked.layers, f"{release}/{inside}".rstrip("/"))
    return {
        layer: _remote(release, name, layer, asked) for layer, name in chosen.items()
    }, Setting()


def _in_release(release: str, inside: str, asked: Asked) -> dict[int, UnreadMember]:
    entries = catalogue.releases().get(release) or {}
    if not entries:
        catalogue.get(release, inside)  # there is no such release: this says which is near
    numbers = {
        sae_id: number_by(inside, sae_id) if inside else entry.layer
        for sae_id, entry in entries.items()
        if not inside or ANY in inside or sae_id == inside
    }
    names = {sae_id: n for sae_id, n in numbers.items() if n is not None}
    chosen = choose(_one_each(names, inside), asked.layers, release)
    return {layer: _remote(release, sae_id, layer, asked) for layer, sae_id in chosen.items()}


def _local(place: Path, layer: int, asked: Asked) -> UnreadMember:
    return UnreadMember(
        MemberSource(path=str(place)),
        lambda: locate(place, "", "", known=asked.of(layer), fetch=asked.fetch),
    )


def _remote(
    release: str, sae_id: str, layer: int, asked: Asked, revision: str = ""
) -> UnreadMember:
    def located() -> LocatedSAE:
        location = hub.resolve(release, sae_id)
        return in_repository(
            asked.repository(location.repo_id, revision),
            location,
            hub_name=f"{release}/{sae_id}",
            known=asked.of(layer),
            offline=asked.fetch.offline,
        )

    return UnreadMember(
        MemberSource(release=release, sae_id=sae_id, revision=revision or asked.fetch.revision),
        located,
    )


def _names(names: frozenset[str], folder: str) -> dict[str, int]:
    """The SAEs of a folder with the layer that each one's name says: its files, else what lies
    below."""
    inside = f"{folder}/" if folder else ""
    here = [name for name in files_in(names, folder) if number_in(name[len(inside) :]) is not None]
    if not here:
        below = frozenset(name for name in names if name.startswith(inside))
        here = [name for name in folders(below) if name != folder]
    numbers = {name: number_in(name[len(inside) :]) for name in here}
    return {name: n for name, n in numbers.items() if n is not None}


def _files(names: frozenset[str]) -> list[str]:
    parents = {name.rpartition("/")[0] for name in names}
    return [file for parent in parents for file in files_in(names, parent)]


def _matching(path: Path) -> dict[str, int]:
    """Folders and files on this disk that a path with {layer} names."""
    parts = path.expanduser().parts
    at = next(i for i, part in enumerate(parts) if ANY in part)
    root, pattern = check_inside(Path(*parts[:at])), "/".join(parts[at:])
    places = {each: each.relative_to(root) for each in root.glob(pattern.replace(ANY, "*"))}
    numbers = {str(each): number_by(pattern, name.as_posix()) for each, name in places.items()}
    return {place: n for place, n in numbers.items() if n is not None}


def _one_each(names: Mapping[str, int], where: str) -> dict[int, str]:
    """Layer -> the one SAE of it.

    Raises:
        NotFoundError: SET_NOT_FOUND: there is none.
        FormatError: AMBIGUOUS_SET: a layer has several.
    """
    if not names:
        raise NotFoundError(
            f"There are no SAEs of several layers in {where or 'this place'}.",
            code="SET_NOT_FOUND",
            field="sae_id" if where else "path",
            got=where,
            allowed="a folder whose files or folders are called after their layers",
            hint="Give the folder above the layers, or a path with {layer} in it: "
            '"layer_{layer}/width_16k".',
        )
    layers: dict[int, list[str]] = {}
    for name, layer in sorted(names.items()):
        layers.setdefault(layer, []).append(name)
    several = next(((n, each) for n, each in layers.items() if len(each) > 1), None)
    if several:
        n, each = several
        raise FormatError(
            f"Layer {n} has {len(each)} SAEs: {', '.join(each[:5])}.",
            code="AMBIGUOUS_SET",
            field="sae_id",
            got=where,
            allowed=[_pattern(name, n) for name in each[:5]],
            hint=f'Say which: "{_pattern(each[0], n)}"; "*" stands for what differs by layer.',
        )
    return {layer: each[0] for layer, each in layers.items()}


def _pattern(name: str, layer: int) -> str:
    return re.sub(rf"(?<!\d){layer}(?!\d)", ANY, name, count=1)


def _references(source: FileSource, folder: str) -> list[str]:
    """What the `config.yaml` of a folder lists as its members, if it does."""
    name = join(folder, CONFIG)
    listed = source.yaml(name).get("transcoders") if source.exists(name) else None
    if listed is None:
        return []
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_LAYERS:
        raise FormatError(
            f"{CONFIG}: transcoders must be a list of 1 to {MOST_LAYERS} places.",
            code="CONFIG_INVALID",
            field="transcoders",
            got=str(listed)[:100],
            hint=f"Correct transcoders in {CONFIG}.",
        )
    return [str(each) for each in listed]


def _referred(
    references: list[str], settings: Mapping[str, Any], asked: Asked
) -> tuple[dict[int, UnreadMember], Setting]:
    """Members that lie in other repositories: the first listed is of layer 0."""
    chosen = choose(dict(enumerate(references)), asked.layers, CONFIG)
    hooks = (str(settings.get(f"feature_{way}_hook") or "") for way in ("input", "output"))
    return {layer: _by_uri(uri, layer, asked) for layer, uri in chosen.items()}, Setting(*hooks)


def _by_uri(uri: str, layer: int, asked: Asked) -> UnreadMember:
    """`hf://owner/name/path?revision=main`."""
    parts = urlsplit(uri)
    name, _, path = parts.path.lstrip("/").partition("/")
    if parts.scheme != "hf" or not (parts.netloc and name and path):
        raise FormatError(
            f"{CONFIG} names {uri[:200]!r}, which is no place on the hub.",
            code="TRANSCODER_SET_REFERENCES",
            field="transcoders",
            got=uri[:200],
            allowed="hf://owner/name/path",
            hint="Load the folder that holds those files instead.",
        )
    revision = parse_qs(parts.query).get("revision", [""])[0]
    return _remote(f"{parts.netloc}/{name}", path, layer, asked, revision)
