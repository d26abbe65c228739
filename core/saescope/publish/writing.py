"""Writing an SAE with its card: what would be written is always said first, and nothing that is
there is overwritten."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from saescope import __version__
from saescope.errors import ArgumentError, OfflineError, cannot_write
from saescope.evals import Evaluation
from saescope.features.index import find_index
from saescope.fence import real_path
from saescope.hub.location import checked_path
from saescope.hub.upload import Destination, check_repo_id, has_token, look, push
from saescope.publish.card import model_card
from saescope.publish.publication import Loading, Publication
from saescope.publish.sharing import shareable
from saescope.records.publication import PublishedFile
from saescope.saes import SAE
from saescope.saes.disk import CFG_FILE, WEIGHTS_FILE, not_in_saelens
from saescope.saes.sparsity import SPARSITY_FILE, Densities, log_sparsity, write_sparsity

CARD_FILE = "README.md"
ASIDE = ".publishing-"
"""Begins the name of the folder in which files are made; where one is left, a publication was cut
off."""
_IN_ORDER = (CARD_FILE, SPARSITY_FILE, CFG_FILE, WEIGHTS_FILE)
"""Weights last: without them no reader takes the folder for an SAE."""
_SAFETENSORS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class _PublishPlan(NamedTuple):
    target: str
    names: Mapping[str, str]
    """Our file to its name at the target."""
    load: Loading
    warnings: tuple[str, ...]
    repository: Destination | None = None


class _Content(NamedTuple):
    """What is published: the SAE, the text of its card, and how often its features fire."""

    sae: SAE
    card: str
    densities: Densities | None

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of each file."""
        cfg, tensors = self.sae.to_saelens()
        sizes = {
            CFG_FILE: len(json.dumps(cfg, indent=1)),
            WEIGHTS_FILE: file_bytes(tensors),
            CARD_FILE: len(self.card.encode()),
        }
        if self.densities is not None:
            sizes[SPARSITY_FILE] = file_bytes(log_sparsity(self.densities))
        return sizes

    def write(self, folder: Path) -> Path:
        """Write the files into a folder of their own."""
        self.sae.save(folder)
        if self.densities is not None:
            write_sparsity(folder, self.densities)
        _write_new(folder / CARD_FILE, self.card)
        return folder


def publish_sae(
    sae: SAE,
    *,
    path: str | Path = "",
    repo_id: str = "",
    sae_id: str = "",
    evaluation: Evaluation | None = None,
    private: bool = True,
    dry_run: bool = True,
) -> Publication:
    """Write the SAE and its card into the folder `path`, or as `sae_id` (default: its hook) into
    the Hugging Face repository `repo_id`.

    A dry run says what would be written and where; it looks at the repository if the hub can be
    reached. Paths of this machine do not get into what is published.

    Raises:
        ArgumentError: neither or both of path and repo_id; files of this name are there; no token;
            a private SAE for a public repository.
        ResourceError, OfflineError: the folder or the hub cannot be written.
    """
    _check_target(path, repo_id)
    sae = shareable(sae, evaluation)
    plan = (
        _to_repository(sae, repo_id, sae_id, private=private, dry_run=dry_run)
        if repo_id
        else _to_folder(sae, Path(path).expanduser())
    )
    densities = _densities(sae, evaluation)
    if densities is not None:
        beside = plan.names[CFG_FILE].removesuffix(CFG_FILE) + SPARSITY_FILE
        plan = plan._replace(names={**plan.names, SPARSITY_FILE: beside})
    title = repo_id.partition("/")[2] or Path(path).name
    card = model_card(sae, plan.load, evaluation, title=title, version=__version__)
    content = _Content(sae, card, densities)
    commit = "" if dry_run else _write(content, plan, private=private)
    sizes = content.sizes
    return Publication(
        target=plan.target,
        files=tuple(PublishedFile(name=plan.names[old], n_bytes=n) for old, n in sizes.items()),
        load=plan.load,
        card=card,
        written=not dry_run,
        private=private if repo_id else None,
        commit=commit,
        warnings=plan.warnings,
    )


def _check_target(path: str | Path, repo_id: str) -> None:
    if bool(path) == bool(repo_id):
        raise ArgumentError(
            "Give either path or repo_id.",
            code="MISSING_ARGUMENT",
            field="repo_id",
            hint='Call ss.publish_sae(sae, path="my-sae").',
        )


def _densities(sae: SAE, evaluation: Evaluation | None) -> Densities | None:
    """Share of positions at which each feature fires: as it was evaluated, or else as its index on
    this machine has it."""
    if evaluation is not None and len(evaluation.n_fired) == sae.cfg.d_sae:
        return evaluation.densities
    index = find_index(sae)
    return None if index is None else index.densities


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The size of a safetensors file in bytes, before it is written."""
    header, offset = dict[str, Any](), 0
    for name, tensor in sorted(tensors.items()):
        dtype = _SAFETENSORS[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + length + -length % 8 + offset


def _to_folder(sae: SAE, folder: Path) -> _PublishPlan:
    if why := _not_new(folder):
        raise ArgumentError(
            f"{real_path(folder).name!r} {why}.",
            code="ALREADY_EXISTS",
            field="path",
            got=folder,
            allowed="a folder that does not exist yet, or an empty one",
            hint="Choose another folder: nothing is written among files that are there.",
        )
    where = str(folder)
    commands = (
        f"ss.load_sae({where!r})",
        f"load_sae(path={json.dumps(where)})",
        f"saescope load-sae --path {json.dumps(where)}",
    )
    load, warnings = _loading(sae, *commands, f"SAE.load_from_disk({where!r})")
    return _PublishPlan(
        where, {name: name for name in (CFG_FILE, WEIGHTS_FILE, CARD_FILE)}, load, warnings
    )


def _not_new(folder: Path) -> str:
    """What is there already; empty for a folder that is new or empty."""
    if not folder.exists():
        return ""
    if not folder.is_dir():
        return "is a file"
    try:
        there = sorted(file.name for file in folder.iterdir())
    except OSError as error:
        return f"cannot be looked into ({error.strerror})"
    if any(name.startswith(ASIDE) for name in there):
        there = [name for name in there if name not in _IN_ORDER and not name.startswith(ASIDE)]
    return f"already holds {there[0]}" if there else ""


def _to_repository(
    sae: SAE, repo_id: str, sae_id: str, *, private: bool, dry_run: bool
) -> _PublishPlan:
    check_repo_id(repo_id)
    folder = checked_path(sae_id or sae.cfg.metadata.hook_name or "sae").strip("/")
    warnings = (
        []
        if has_token()
        else [
            "There is no Hugging Face token: set HF_TOKEN to one that may write before you publish."
        ]
    )
    try:
        target = look(repo_id)
    except OfflineError:
        if not dry_run:
            raise
        target = Destination(repo_id, False, "", True, frozenset())
        warnings.append(
            f"The hub cannot be reached: whether {repo_id} holds {folder} already is not known."
        )
    _check_repository(target, folder, private=private)
    # The first SAE of a repository brings the repository's card; later ones keep theirs in their
    # own folder.
    card = f"{folder}/{CARD_FILE}" if CARD_FILE in target.names else CARD_FILE
    ours, lens = (
        f"release={json.dumps(repo_id)}, sae_id={json.dumps(folder)}",
        f"{json.dumps(repo_id)}, {json.dumps(folder)}",
    )
    command = f"saescope load-sae --release {repo_id} --sae-id {folder}"
    load, missing = _loading(
        sae, f"ss.load_sae({ours})", f"load_sae({ours})", command, f"SAE.from_pretrained({lens})"
    )
    names = {
        CFG_FILE: f"{folder}/{CFG_FILE}",
        WEIGHTS_FILE: f"{folder}/{WEIGHTS_FILE}",
        CARD_FILE: card,
    }
    return _PublishPlan(target.url, names, load, (*warnings, *missing), target)


def _check_repository(target: Destination, folder: str, *, private: bool) -> None:
    taken = sorted(name for name in target.names if name.startswith(f"{folder}/"))
    if taken:
        raise ArgumentError(
            f"{target.repo_id} already holds {taken[0]}.",
            code="ALREADY_EXISTS",
            field="repo_id",
            got=target.repo_id,
            hint="Choose another repo_id (or, in Python, another sae_id): nothing is overwritten.",
        )
    if private and target.exists and not target.private:
        raise ArgumentError(
            f"{target.repo_id} is public.",
            code="REPO_IS_PUBLIC",
            field="private",
            got=True,
            allowed=False,
            hint="Call with private=False to publish for everybody, or choose another repo_id.",
        )


def _loading(
    sae: SAE, python: str, tool: str, command: str, sae_lens: str
) -> tuple[Loading, tuple[str, ...]]:
    warning = not_in_saelens(str(sae.to_saelens()[0]["architecture"]))
    if not warning:
        return Loading(python, tool, command, sae_lens), ()
    return Loading(python, tool, command, ""), (warning,)


def _write(content: _Content, plan: _PublishPlan, *, private: bool) -> str:
    """The commit, or "" for a folder."""
    if plan.repository is None:
        _write_folder(content, Path(plan.target))
        return ""
    with tempfile.TemporaryDirectory(prefix="saescope-publish-") as staging:
        folder = content.write(Path(staging))
        files = {name: folder / own for own, name in plan.names.items()}
        return push(
            plan.repository,
            files,
            private=private,
            message=f"Add {plan.names[CFG_FILE].rpartition('/')[0]}",
        )


def _write_folder(content: _Content, folder: Path) -> None:
    """All of it or nothing. What a kill leaves half has no weights, and the next publication to
    this folder takes its place."""
    was_there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=ASIDE) as aside:
            made = content.write(Path(aside))
            for name in _IN_ORDER:
                if (made / name).exists():
                    os.replace(made / name, folder / name)
    except BaseException as error:
        with suppress(OSError):
            _clear(folder)
            if not was_there:
                folder.rmdir()
        if isinstance(error, OSError):
            choose = "Choose a folder that can be written to and has space."
            raise cannot_write("The SAE", folder, error, hint=choose) from error
        raise


def _clear(folder: Path) -> None:
    """Remove what a publication left; only a new or an empty folder, or one that was cut off, comes
    here. Weights go first."""
    for name in reversed(_IN_ORDER):
        (folder / name).unlink(missing_ok=True)
    for aside in folder.glob(f"{ASIDE}*"):
        shutil.rmtree(aside, ignore_errors=True)


def _write_new(file: Path, content: str) -> None:
    try:
        with file.open("x", encoding="utf-8", newline="\n") as opened:
            opened.write(content)
    except OSError as error:
        choose = "Choose a folder that can be written to and has space."
        raise cannot_write(file.name, file.parent, error, hint=choose) from error
