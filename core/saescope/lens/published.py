"""A published Jacobian lens: by the name of its model, by its place on the hub, or from a file."""

from pathlib import Path
from typing import NamedTuple

import torch

from saescope import hub
from saescope.errors import FormatError, NotFoundError
from saescope.formats import FileSource
from saescope.formats.pickles import ENDINGS, SETTING, Converted, open_pickle
from saescope.formats.source import local_source
from saescope.hub import Fetch
from saescope.lens.lens import Lens
from saescope.models import LanguageModel, canonical_name
from saescope.models.analysis import jacobian_lens, published_lenses
from saescope.names import nearest
from saescope.records.lens import LensFacts

_MATRIX = "J."


class _LensPlace(NamedTuple):
    source: FileSource
    filename: str
    revision: str
    warnings: tuple[str, ...] = ()


def open_lens(
    model: LanguageModel, name_or_path: str | Path, *, fetch: Fetch | None = None
) -> Lens:
    """A published lens: a .pt file, the short name of one that transformer-lens lists
    ("gemma-2-2b"), or "owner/name/path/to/lens.pt" on the hub.

    Raises:
        FormatError: PICKLE_REFUSED: the settings do not allow .pt files; or it is no lens.
        NotFoundError, OfflineError: it is not there, or not here and the network is not to be used.
        MismatchError: it belongs to another model.
    """
    place = _located(model, str(name_or_path), fetch or Fetch())
    try:
        with open_pickle(place.source, place.filename) as converted:
            return _read(model, str(name_or_path), place, converted)
    except FormatError as error:
        if error.code == "PICKLE_REFUSED" and "unless you allow it" in error.message:
            error.hint = (
                f"Convert it once, in a confined process of saescope's own: set {SETTING}=1, and "
                "read the lens again; after that it opens without."
            )
        raise


def _located(model: LanguageModel, name: str, fetch: Fetch) -> _LensPlace:
    path = Path(name).expanduser()
    if path.suffix in ENDINGS and path.exists():
        return _LensPlace(local_source(path), path.name, "")
    if listed := _listed(name):
        same = {canonical_name(each) for each in listed.models} & model.identities
        other = f"The lens {name} was fitted on {listed.models[-1]}, not on {model.name}."
        pinned = fetch._replace(revision=fetch.revision or listed.revision)
        return _on_the_hub(listed.repo_id, listed.filename, pinned, () if same else (other,))
    owner, _, rest = name.partition("/")
    repo, _, filename = rest.partition("/")
    if filename.endswith(ENDINGS) and not name.startswith((".", "~", "/")):
        return _on_the_hub(f"{owner}/{repo}", filename, fetch)
    close = nearest(name, published_lenses())
    raise NotFoundError(
        f"There is no lens {name!r}.",
        code="LENS_NOT_FOUND",
        field="lens",
        got=name,
        allowed=("logit", "jacobian", *close),
        hint='Use "logit", "jacobian", a name that is listed (saescope.lens.published_lenses()), a '
        '.pt file, or "owner/name/path/to/lens.pt".',
    )


def _listed(name: str):
    lenses = published_lenses()
    return lenses.get(name) or next((one for one in lenses.values() if name in one.models), None)


def _on_the_hub(
    repo_id: str, filename: str, fetch: Fetch, warnings: tuple[str, ...] = ()
) -> _LensPlace:
    hub.resolve(repo_id, "")  # refuses what is no name of a repository
    repository = hub.repository(repo_id, **fetch._asdict())
    source = FileSource(
        opener=repository.open,
        local=repository.local,
        names=repository.names,
        path=filename,
        repo_id=repo_id,
    )
    return _LensPlace(source, filename, repository.commit, warnings)


def _read(model: LanguageModel, name: str, place: _LensPlace, converted: Converted) -> Lens:
    layers = {
        int(tensor.removeprefix(_MATRIX)): tensor
        for tensor in converted.header
        if tensor.startswith(_MATRIX) and tensor.removeprefix(_MATRIX).isdecimal()
    }
    shapes = {converted.header[tensor].shape for tensor in layers.values()}
    if len(shapes) != 1 or len(set(next(iter(shapes)))) != 1 or len(next(iter(shapes))) != 2:
        raise FormatError(
            f"{Path(place.filename).name} is no Jacobian lens: it has no square matrix J of each "
            "layer.",
            field="lens",
            got=sorted(converted.header)[:5],
            hint="Give a lens as transformer-lens saves it.",
        )
    matrices = {n: converted.take(tensor, torch.float32) for n, tensor in sorted(layers.items())}
    n_prompts, target = (converted.values.get(key) for key in ("n_prompts", _TARGET))
    n_prompts = n_prompts if type(n_prompts) is int else 0
    lens = jacobian_lens(
        model,
        matrices,
        n_prompts=n_prompts,
        target_layer=target if type(target) is int else None,
    )
    corpus = converted.values.get("metadata.corpus")
    facts = LensFacts(
        lens=Path(name).name if place.source.repo_id == "" else name,
        layers=lens.source_layers,
        n_prompts=n_prompts or None,
        n_tokens=None,
        corpus=str(corpus)[:100] if corpus else None,
        revision=place.revision or None,
    )
    return Lens(facts, lens, place.warnings)


_TARGET = "metadata.target_layer"
