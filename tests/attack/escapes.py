"""Ways out of the folders that a server may read and write: links, `..`, absolute paths, names in
indexes and configurations.

What they lead to is good: a model, an SAE, a text. A server that follows one of them gives no
error, so it is the error that is asked for.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data"
CANARY = "canary-7f3a"
REFUSED = ("PATH_NOT_ALLOWED",)
NO_FILE = ("PATH_NOT_ALLOWED", "FILE_SUSPICIOUS", "FILE_READ_ERROR", "FILE_MISSING")
ANY = ()
"""Any reply will do, so long as nothing outside is opened: transformers or saescope has no need of
what is named."""


@dataclass(frozen=True)
class Ground:
    """The folders of one server: `root` may be read, `root/out` written, `outside` neither."""

    base: Path
    sae: str = ""
    """Handle of an SAE that is loaded."""

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def outside(self) -> Path:
        return self.base / "outside"

    @property
    def home(self) -> Path:
        return self.base / "home"

    def fill(self, sae: Path) -> None:
        """Good files on both sides of the fence."""
        for folder in (self.root, self.outside, self.home / ".ssh", self.home / ".config"):
            shutil.copytree(sae, folder / "sae")
            shutil.copytree(DATA / "glassllm-en", folder / "model")
            for suffix, text in TEXTS.items():
                (folder / f"data{suffix}").write_text(text * 200)
        shutil.copytree(DATA / "dialects", self.outside / "dialects")
        (self.root / "out").mkdir()
        (self.outside / "passwords.txt").write_text(f"{CANARY}\n" * 400)


TEXTS = {
    ".txt": f"A line of {CANARY}, which nobody may read.\n",
    ".jsonl": json.dumps({"text": f"A row of {CANARY}, which nobody may read."}) + "\n",
    ".csv": f"text\nA row of {CANARY} that nobody may read\n",
    ".tsv": f"text\tn\nA row of {CANARY} that nobody may read\t1\n",
}


@dataclass(frozen=True)
class Escape:
    """One attempt: what is put below the root, the call, and the codes that may come back."""

    name: str
    make: Callable[[Ground, Path], dict[str, Any]]
    """Fills a new folder below the root; returns the arguments."""
    tool: str = "load_sae"
    codes: tuple[str, ...] = REFUSED
    quick: bool = field(default=False)
    """Also in `make test`."""


def all_escapes() -> list[Escape]:
    return [
        *_saes(),
        *_dialects(),
        *_models(),
        *_indexes(),
        *_references(),
        *_named_by_saes(),
        *_datasets(),
        *_arguments(),
        *_writes(),
        *_others(),
    ]


def _link(how: str, at: Path, to: Path) -> None:
    """Puts at a place what leads to another, or to no file at all."""
    if at.is_dir() and not at.is_symlink():
        shutil.rmtree(at)
    at.unlink(missing_ok=True)
    at.parent.mkdir(parents=True, exist_ok=True)
    if how == "absolute":
        at.symlink_to(to)
    elif how == "relative":
        at.symlink_to(os.path.relpath(to, at.parent))
    elif how == "chain":
        last = at.with_name(f"{at.name}.1")
        last.symlink_to(to)
        at.with_name(f"{at.name}.2").symlink_to(last.name)
        at.symlink_to(f"{at.name}.2")
    elif how == "through a folder":
        at.with_name(f"{at.name}.d").symlink_to(to.parent)
        at.symlink_to(f"{at.name}.d/{to.name}")
    elif how == "up and down":
        at.symlink_to(f"./.././../{at.parent.parent.name}/{os.path.relpath(to, at.parent.parent)}")
    elif how == "pipe":
        os.mkfifo(at)
    elif how == "folder":
        at.mkdir()
    elif how == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(at.parent)  # a socket's path is short
            try:
                listener.bind(at.name)
            finally:
                os.chdir(here)
    else:
        at.symlink_to(how)


LINKS = ("absolute", "relative", "chain", "through a folder", "up and down")
NO_FILES = ("pipe", "folder", "socket", "/dev/zero", "/dev/stdin", "/proc/self/fd/0", "/dev/tty")
SYSTEM = ("/etc/passwd", "/proc/self/environ", "/proc/self/mem")


def _swapped(
    what: str, file: str, how: str, argument: str
) -> Callable[[Ground, Path], dict[str, Any]]:
    """A good folder one of whose files is not what it seems."""

    def make(ground: Ground, place: Path) -> dict[str, Any]:
        shutil.copytree(ground.outside / what, place)
        _link(how, place / file, ground.outside / what / file)
        return _call(ground, place, argument)

    return make


def _call(ground: Ground, place: Path, argument: str) -> dict[str, Any]:
    if argument == "path":
        return {"path": str(place), "model": str(ground.root / "model")}
    return {"path": str(ground.root / "sae"), argument: str(place)}


def _saes() -> Iterator[Escape]:
    for file in ("cfg.json", "sae_weights.safetensors"):
        for how in (*LINKS, *SYSTEM):
            quick = how == "absolute"
            yield Escape(f"sae {file} {how}", _swapped("sae", file, how, "path"), quick=quick)
        for how in NO_FILES:
            made = _swapped("sae", file, how, "path")
            yield Escape(
                f"sae {file} {how}", made, codes=NO_FILE, quick=how in ("pipe", "/dev/zero")
            )

    def whole(how: str, inside: str = "") -> Callable[[Ground, Path], dict[str, Any]]:
        def make(ground: Ground, place: Path) -> dict[str, Any]:
            _link(how, place, ground.outside if inside else ground.outside / "sae")
            return _call(ground, place / inside, "path")

        return make

    for how in LINKS[:3]:
        yield Escape(f"sae folder {how}", whole(how))
        yield Escape(f"sae below a folder {how}", whole(how, "sae"))
        yield Escape(f"sae cfg.json named below a folder {how}", whole(how, "sae/cfg.json"))
    yield Escape("sae below a link, then up", whole("absolute", "../outside/sae"), quick=True)


def _dialects() -> Iterator[Escape]:
    """Whatever format it is: each of its files, or each weights file of its run, leads outside."""
    for file in sorted((DATA / "dialects").rglob("*")):
        if not file.is_file() or file.name == "expected.safetensors":
            continue
        inside = file.relative_to(DATA / "dialects")
        what, rest = f"dialects/{inside.parts[0]}", Path(*inside.parts[1:])
        for how in ("absolute", "relative"):
            made = _swapped(what, str(rest), how, "path")
            yield Escape(f"{inside} {how}", made, codes=ANY)

    def above(how: str) -> Callable[[Ground, Path], dict[str, Any]]:
        def make(ground: Ground, place: Path) -> dict[str, Any]:
            shutil.copytree(ground.outside / "sae", place / "run" / "sae")
            for config in (place / "config.json", place / "run" / "config.json"):
                _link(how, config, ground.outside / "model" / "config.json")
            return _call(ground, place / "run" / "sae", "path")

        return make

    for how in (*LINKS[:2], "pipe", "/dev/zero"):
        yield Escape(f"the run's config.json {how}", above(how), codes=ANY)


MODEL_FILES = (
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("generation_config.json", "special_tokens_map.json", "chat_template.jinja", "vocab.json"),
    *("added_tokens.json", "additional_chat_templates/other.jinja", "preprocessor_config.json"),
)


def _models() -> Iterator[Escape]:
    def made(file: str, how: str) -> Callable[[Ground, Path], dict[str, Any]]:
        def make(ground: Ground, place: Path) -> dict[str, Any]:
            shutil.copytree(ground.outside / "model", place)
            there = ground.outside / "model" / file
            _link(how, place / file, there if there.exists() else ground.outside / "passwords.txt")
            return _call(ground, place, "model")

        return make

    for file in MODEL_FILES:
        for how in LINKS:
            quick = how == "relative" and file in ("model.safetensors", "tokenizer.json")
            yield Escape(f"model {file} {how}", made(file, how), quick=quick)
        for how in ("pipe", "/dev/zero", "folder"):
            quick = how == "pipe" and file == "config.json"
            yield Escape(f"model {file} {how}", made(file, how), codes=NO_FILE, quick=quick)

    def gguf(how: str) -> Callable[[Ground, Path], dict[str, Any]]:
        def make(ground: Ground, place: Path) -> dict[str, Any]:
            _link(how, place / "model.gguf", ground.outside / "passwords.txt")
            return _call(ground, place / "model.gguf", "model")

        return make

    for how in LINKS:
        yield Escape(f"gguf {how}", gguf(how))
    for how in ("pipe", "/dev/zero", "folder", "socket"):
        yield Escape(
            f"gguf {how}", gguf(how), codes=(*NO_FILE, "FILE_CORRUPT", "MODEL_CONFIG_INVALID")
        )


INDEX = "model.safetensors.index.json"


def _indexes() -> Iterator[Escape]:
    def made(name: str, how: str = "") -> Callable[[Ground, Path], dict[str, Any]]:
        def make(ground: Ground, place: Path) -> dict[str, Any]:
            shutil.copytree(ground.outside / "model", place)
            (place / "model.safetensors").unlink()
            if how:
                _link(how, place / "shard", ground.outside / "model")
            shard = name.format(outside=ground.outside, up="../../outside")
            weight_map = dict.fromkeys(("model.embed_tokens.weight", "model.norm.weight"), shard)
            (place / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
            return _call(ground, place, "model")

        return make

    names = (
        *("{up}/model/model.safetensors", "{outside}/model/model.safetensors"),
        *("./{up}/model/model.safetensors", "x/../{up}/model/model.safetensors"),
        *("..\\..\\outside\\model\\model.safetensors", "file://{outside}/model/model.safetensors"),
        *("~/.ssh/model/model.safetensors", "shard/model.safetensors", "..", ".", ""),
        *("model.safetensors\0/../../x", "/dev/zero", "/proc/self/fd/0"),
    )
    for name in names:
        how = "absolute" if name.startswith("shard") else ""
        quick = name.startswith("{")
        yield Escape(f"weight index {name!r}", made(name, how), quick=quick)
    for how in LINKS:
        yield Escape(f"weight index is {how}", _swapped_index(how))


def _swapped_index(how: str) -> Callable[[Ground, Path], dict[str, Any]]:
    def make(ground: Ground, place: Path) -> dict[str, Any]:
        shutil.copytree(ground.outside / "model", place)
        _link(how, place / INDEX, ground.outside / "model" / "config.json")
        return _call(ground, place, "model")

    return make


KEYS = (
    *("vocab_file", "merges_file", "tokenizer_file", "spm_file", "source_spm", "target_spm"),
    *("vocab", "special_tokens_map_file", "chat_template_file", "transformers_weights"),
)


def _references() -> Iterator[Escape]:
    """Configurations that name files: what leads up is refused, an absolute path (of the machine
    that wrote it) is never opened."""

    def made(
        file: str, said: Callable[[str], dict[str, Any]], to: str
    ) -> Callable[..., dict[str, Any]]:
        def make(ground: Ground, place: Path) -> dict[str, Any]:
            shutil.copytree(ground.outside / "model", place)
            config = json.loads((place / file).read_text())
            named = to.format(outside=ground.outside)
            (place / file).write_text(json.dumps(config | said(named)))
            return _call(ground, place, "model")

        return make

    for to, codes in (("../../outside/passwords.txt", REFUSED), ("{outside}/passwords.txt", ANY)):
        for key in KEYS:
            for file in ("tokenizer_config.json", "config.json"):
                quick = key == "vocab_file" and file[0] == "t"
                name = f"{file} {key}={to}"
                yield Escape(
                    name,
                    made(file, lambda path, key=key: {key: path}, to),
                    codes=codes,
                    quick=quick,
                )
        nested = made(
            "tokenizer_config.json", lambda path: {"sp_model_kwargs": {"model_file": path}}, to
        )
        yield Escape(f"sp_model_kwargs model_file={to}", nested, codes=codes)
        marian = made(
            "tokenizer_config.json",
            lambda path: {"tokenizer_class": "MarianTokenizer", "source_spm": path, "vocab": path},
            to,
        )
        yield Escape(f"another tokenizer's class, {to}", marian, codes=codes)
        base = made(
            "config.json", lambda path: {"base_model_name_or_path": path, "_name_or_path": path}, to
        )
        yield Escape(f"base_model_name_or_path={to}", base, codes=ANY)

    def adapter(ground: Ground, place: Path) -> dict[str, Any]:
        shutil.copytree(ground.outside / "model", place)
        said = {"base_model_name_or_path": str(ground.outside / "model"), "peft_type": "LORA"}
        (place / "adapter_config.json").write_text(json.dumps(said))
        return _call(ground, place, "model")

    yield Escape("adapter_config.json", adapter, codes=("UNSUPPORTED_MODEL",), quick=True)


def _named_by_saes() -> Iterator[Escape]:
    """An SAE's configuration that names a model or a tokenizer of the disk."""

    def made(model: str) -> Callable[[Ground, Path], dict[str, Any]]:
        def make(ground: Ground, place: Path) -> dict[str, Any]:
            shutil.copytree(ground.outside / "sae", place)
            config = json.loads((place / "cfg.json").read_text())
            config["metadata"]["model_name"] = model.format(outside=ground.outside)
            (place / "cfg.json").write_text(json.dumps(config))
            return {"path": str(place)}

        return make

    for model in ("{outside}/model", "../../outside/model", "~/.ssh/model", "{outside}/x.gguf"):
        yield Escape(f"cfg.json model_name={model}", made(model))


def _datasets() -> Iterator[Escape]:
    def one(suffix: str, how: str) -> Callable[[Ground, Path], dict[str, Any]]:
        def make(ground: Ground, place: Path) -> dict[str, Any]:
            _link(how, place / f"data{suffix}", ground.outside / f"data{suffix}")
            return {"sae": ground.sae, "dataset": str(place / f"data{suffix}"), "n_tokens": 100}

        return make

    def folder(suffix: str, how: str) -> Callable[[Ground, Path], dict[str, Any]]:
        def make(ground: Ground, place: Path) -> dict[str, Any]:
            return one(suffix, how)(ground, place) | {"dataset": str(place)}

        return make

    unread = (*NO_FILE, "UNKNOWN_FORMAT", "DATASET_EMPTY")
    for suffix in TEXTS:
        for how in LINKS:
            made = (one(suffix, how), folder(suffix, how))
            yield Escape(f"dataset {suffix} {how}", made[0], "evaluate_sae", quick=suffix == ".txt")
            yield Escape(f"dataset with {suffix} {how}", made[1], "evaluate_sae")
        for how in ("pipe", "/dev/zero", "folder"):
            made = (one(suffix, how), folder(suffix, how))
            yield Escape(f"dataset {suffix} {how}", made[0], "evaluate_sae", codes=unread)
            yield Escape(f"dataset with {suffix} {how}", made[1], "evaluate_sae", codes=unread)
    for suffix in TEXTS:
        for how in (*LINKS, *SYSTEM, "pipe"):
            codes = unread if how == "pipe" else REFUSED
            name = f"texts_file {suffix} {how}"
            yield Escape(name, _of_texts(one(suffix, how)), "top_features", codes=codes)
    for tool in ("index_features", "train_sae"):
        for how in LINKS:
            yield Escape(f"{tool} {how}", _for_worker(tool, one(".txt", how)), tool)


def _of_texts(make: Callable[[Ground, Path], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def made(ground: Ground, place: Path) -> dict[str, Any]:
        return {"sae": ground.sae, "texts_file": make(ground, place)["dataset"]}

    return made


def _for_worker(
    tool: str, make: Callable[[Ground, Path], dict[str, Any]]
) -> Callable[..., dict[str, Any]]:
    def made(ground: Ground, place: Path) -> dict[str, Any]:
        said = make(ground, place)
        if tool == "index_features":
            return said
        site = {"model": str(ground.root / "model"), "hook_name": "blocks.2.hook_resid_post"}
        return {"dataset": said["dataset"], **site}

    return made


ROOT = "root"
"""In a piece of its own: a rule for the whole tree knows this path as that of somebody's
machine."""
PLACES = (
    *("{outside}/{what}", "{root}/../outside/{what}", "{root}/sae/../../outside/{what}"),
    *("{home}/.ssh/{what}", "~/.ssh/{what}", "~/.config/{what}", "/etc/passwd", "/etc", "/"),
    *("/proc/self/environ", "/proc/self/cwd/{what}", f"/proc/self/{ROOT}/etc/passwd", "/dev/stdin"),
    *("/proc/self/root{outside}/{what}", "//{outside}/{what}", "/dev/../{outside}/{what}", "~root"),
)


def _arguments() -> Iterator[Escape]:
    whats = {"path": "sae", "model": "model", "dataset": "data.txt"}
    for argument, what in whats.items():
        for place in PLACES:

            def make(
                ground: Ground,
                _: Path,
                *,
                argument: str = argument,
                what: str = what,
                to: str = place,
            ) -> dict[str, Any]:
                said = to.format(
                    outside=ground.outside, root=ground.root, home=ground.home, what=what
                )
                if argument == "dataset":
                    return {"sae": ground.sae, "dataset": said}
                return {"path": str(ground.root / "sae"), "model": str(ground.root / "model")} | {
                    argument: said
                }

            tool = "evaluate_sae" if argument == "dataset" else "load_sae"
            yield Escape(
                f"{argument}={place}", make, tool, quick=place.startswith(("{root}/..", "~/.ssh"))
            )


def _writes() -> Iterator[Escape]:
    places = (
        *("{outside}/new", "{root}/new", "{root}/out/../../outside/new", "~/.ssh/new", "~/new"),
        *("~/.config/autostart/new", "/etc/new", "/new", "{root}/out/.hidden/new", "/dev/shm/new"),
        *("/proc/self/cwd/new", "/tmp/new"),
    )
    for place in places:

        def make(ground: Ground, _: Path, *, to: str = place) -> dict[str, Any]:
            said = to.format(outside=ground.outside, root=ground.root)
            return {"sae": ground.sae, "path": said, "dry_run": False}

        yield Escape(f"publish to {place}", make, "publish_sae", quick=place.endswith("}/new"))
    for how in LINKS[:3]:

        def linked(ground: Ground, place: Path, *, how: str = how) -> dict[str, Any]:
            at = ground.root / "out" / place.name
            _link(how, at, ground.outside)
            return {"sae": ground.sae, "path": str(at / "new"), "dry_run": False}

        yield Escape(f"publish through a link {how}", linked, "publish_sae")


def _others() -> Iterator[Escape]:
    """Names that are joined to a folder of saescope's own."""
    for name in ("../../outside/new", "/etc/new", "..", "a/../../b", ".ssh"):

        def make(ground: Ground, _: Path, *, name: str = name) -> dict[str, Any]:
            site = {"model": str(ground.root / "model"), "hook_name": "blocks.2.hook_resid_post"}
            data = {"dataset": str(ground.root / "data.txt"), "n_tokens": 1000}
            return {"name": name, **site, **data}

        yield Escape(f"train_sae name={name}", make, "train_sae", codes=("INVALID_ARGUMENT", "*"))
    for run in ("../../outside", "train-../../x", "/etc"):
        made: Callable[..., dict[str, Any]] = lambda *_, run=run: {"job_id": run}  # noqa: E731
        yield Escape(f"job_status {run}", made, "job_status", codes=("JOB_NOT_FOUND", "*"))
    for release in ("../../outside", "/etc", "x/../../y"):
        made = lambda *_, release=release: {"release": release, "sae_id": "../.."}  # noqa: E731
        yield Escape(f"release {release}", made, codes=("*",))
    for sae_id in ("../../../outside/sae", "/etc/passwd"):
        made = lambda *_, to=sae_id: {"release": "owner/name", "sae_id": to}  # noqa: E731
        yield Escape(f"sae_id {sae_id}", made, codes=("*",))
