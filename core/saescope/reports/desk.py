"""What a script has at hand: its models, SAEs and long texts under names, each made once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saescope.ledger import KeptEntry
from saescope.reports.code import call, literal
from saescope.reports.sources import SAESource, model_to_load

LONGEST = 60
"""Characters of a text that stands in a call; a longer one has a name."""


class NoSourceError(Exception):
    """Nothing on this machine says where the SAE of a handle comes from."""


@dataclass
class Desk:
    """The names of one script."""

    sources: Mapping[str, SAESource]
    texts: list[str] = field(default_factory=list[str])
    """Lines that name texts."""
    loads: list[str] = field(default_factory=list[str])
    """Lines that load and measure, in order."""
    _names: dict[object, str] = field(default_factory=dict[object, str])
    _counts: dict[str, int] = field(default_factory=dict[str, int])

    def text(self, text: str) -> str:
        """A text as an argument."""
        if len(text) <= LONGEST:
            return literal(text)
        return self._named(("text", text), "TEXT", self.texts, _long(text))

    def list_of(self, texts: Sequence[str]) -> str:
        """Texts as an argument."""
        flat = literal([*texts])
        if len(flat) <= LONGEST:
            return flat
        return self._named(("texts", *texts), "TEXTS", self.texts, literal([*texts], 0, 12))

    def model(self, entry: KeptEntry, handle: str) -> str:
        """The model of an SAE, loaded."""
        origin = entry.document["provenance"]
        load = model_to_load(self._source(handle), origin["model"])
        key = ("model", load, origin["dtype"])
        if key not in self._names:
            words = {"device": self._source(handle).device, "dtype": origin["dtype"]}
            given = {name: literal(word) for name, word in words.items() if word != "auto"}
            self._named(key, "model", self.loads, call("ss.load_model", [literal(load)], given))
        self._identify(self._names[key], origin)
        return self._names[key]

    def _identify(self, model: str, origin: Mapping[str, Any]) -> None:
        """Compare a model with that of a result, once for all results of the same."""
        said, stored = [origin["model"], origin["revision"]], origin.get("model_hash", "")
        key = ("identity", model, *said, stored)
        if key in self._names:
            return
        self._names[key] = model
        self.loads.append(call("check.model", [model, *map(literal, said)]))
        if stored:
            named = literal(f"the model {said[0]}")
            self.loads.append(call("check.weights", [model, named, literal(stored)]))

    def other_model(self, entry: KeptEntry, handle: str) -> str:
        """The model of another SAE than those of the result, loaded as the result's is."""
        source, dtype = self._source(handle), entry.document["provenance"]["dtype"]
        load = model_to_load(source, entry.document["provenance"]["model"])
        made = call("ss.load_model", [literal(load)], {"dtype": literal(dtype)})
        return self._named(("model", load, dtype), "model", self.loads, made)

    def sae(self, entry: KeptEntry, handle: str) -> str:
        """An SAE at its place in its model, its weights compared with those of the result."""
        stored = _hashes(entry).get(handle, "")
        key, model = ("sae", handle, stored), self.model(entry, handle)
        if not stored:  # a partner, whose weights the result does not tell
            key = next((known for known in self._names if _is_of(known, handle)), key)
        if key not in self._names:
            load = call("ss.load_sae", *_loading(self._source(handle), entry))
            name = self._named(key, "sae", self.loads, f"ss.settle({model}, {load})")
            if stored:
                self.loads.append(call("check.weights", [name, literal(handle), literal(stored)]))
        return self._names[key]

    def is_set(self, handle: str) -> bool:
        """Whether a handle is that of a whole set."""
        return handle in self.sources and bool(self.sources[handle].layers)

    def sae_set(self, entry: KeptEntry, handle: str) -> str:
        """A set at its places in its model."""
        stored = _hashes(entry).get(handle, "")
        key, model = ("set", handle, stored), self.model(entry, handle)
        if key not in self._names:
            source = self._source(handle)
            given, named = _loading(source, entry)
            load = call("ss.load_set", given, named | {"layers": literal(source.layers)})
            name = self._named(key, "saes", self.loads, f"{load}.settled({model})")
            self.loads.append(call("check.weights", [name, literal(handle), literal(stored)]))
        return self._names[key]

    def saes(self, entry: KeptEntry, handles: Sequence[str]) -> str:
        """One SAE, or a list of several."""
        names = [self.sae(entry, handle) for handle in handles]
        return names[0] if len(names) == 1 else f"[{', '.join(names)}]"

    def units(self, entry: KeptEntry, handles: Sequence[str]) -> dict[str, str]:
        """What strength 1 is made of, as arguments: what fires on the probe text, and in an
        index."""
        words: dict[str, list[str]] = {"reference": [], "indexed": []}
        for handle in handles:
            model, sae = self.model(entry, handle), self.sae(entry, handle)
            words["reference"].append(
                self._named(
                    ("probe", sae), "probe", self.loads, f"ss.check_sae({model}, {sae}).acts"
                )
            )
            words["indexed"].append(
                self._named(
                    ("indexed", sae),
                    "indexed",
                    self.loads,
                    f"ss.indexed_activations({model}, {sae})",
                )
            )
        several = len(handles) > 1
        return {
            name: f"[{', '.join(given)}]" if several else given[0] for name, given in words.items()
        }

    def index(self, entry: KeptEntry, handle: str) -> str:
        """The index of an SAE."""
        model, sae = self.model(entry, handle), self.sae(entry, handle)
        return self._named(("index", sae), "index", self.loads, f"ss.find_index({sae}, {model})")

    def file(self, path: str, stored: str) -> str:
        """A file or a folder of texts, compared with what it was."""
        key = ("file", path, stored)
        if key not in self._names:
            self._names[key] = literal(path)
            self.loads.append(call("check.file", [literal(path), literal(stored)]))
        return self._names[key]

    def tokens(
        self, entry: KeptEntry, handles: Sequence[str], text: str, *, chat: bool = False
    ) -> str:
        """A text as the SAEs read it."""
        given = [self.model(entry, handles[0]), self.saes(entry, handles), self.text(text)]
        return call("ss.tokenize", given, {"chat": "True"} if chat else {})

    def tokens_of(
        self, entry: KeptEntry, handles: Sequence[str], texts: Sequence[str], *, chat: bool = False
    ) -> str:
        """Texts as the SAEs read them."""
        return self.read(entry, handles, self.list_of(texts), chat=chat)

    def read(
        self, entry: KeptEntry, handles: Sequence[str], texts: str, *, chat: bool = False
    ) -> str:
        """The texts of an expression as the SAEs read them."""
        given = [self.model(entry, handles[0]), self.saes(entry, handles), "text"]
        each = call("ss.tokenize", given, {"chat": "True"} if chat else {})
        return f"[{each} for text in {texts}]"

    def _source(self, handle: str) -> SAESource:
        if handle not in self.sources:
            raise NoSourceError(
                f"nothing on this machine says where {handle!r} comes from: load it here once"
            )
        return self.sources[handle]

    def _named(self, key: object, word: str, lines: list[str], made: str) -> str:
        if key not in self._names:
            n = self._counts[word] = self._counts.get(word, 0) + 1
            upper = word.isupper()
            name = f"{word}_{n}" if upper or n > 1 else word
            self._names[key] = name
            lines.append(f"{name} = {made}")
        return self._names[key]


def _is_of(key: object, handle: str) -> bool:
    """Whether a name is that of the handle's SAE."""
    return isinstance(key, tuple) and key[:2] == ("sae", handle)


def handles_of(entry: KeptEntry) -> list[str]:
    """The SAEs of a result in the order in which its rows count them."""
    return [*_hashes(entry)]


def _hashes(entry: KeptEntry) -> dict[str, str]:
    """The weights of each SAE of a result."""
    origin = entry.document.get("provenance") or {}
    if origin.get("sae"):
        return {origin["sae"]: origin["weights_hash"]}
    return {each["sae"]: each["weights_hash"] for each in origin.get("saes", [])}


def _loading(source: SAESource, entry: KeptEntry) -> tuple[list[str], dict[str, str]]:
    """Arguments of `ss.load_sae`."""
    given = [literal(source.path)] if source.path else []
    named: dict[str, Any] = {
        name: getattr(source, name)
        for name in ("release", "sae_id", "revision", "device")
        if getattr(source, name) not in ("", "auto")
    }
    dtype = entry.document["provenance"]["dtype"] if source.dtype == "auto" else source.dtype
    named |= {"dtype": dtype} if dtype != "float32" else {}
    known = {name: getattr(source, name) for name in ("hook_name", "gate")}
    known = {name: value for name, value in known.items() if value}
    named |= {"known": known} if known else {}
    return given, {name: literal(value) for name, value in named.items()}


def _long(text: str) -> str:
    """A long text over several lines, broken after spaces."""
    lines, rest = list[str](), text
    while len(rest) > LONGEST + 30:
        at = rest.rfind(" ", 0, LONGEST + 30) + 1 or LONGEST + 30
        lines.append(rest[:at])
        rest = rest[at:]
    rows = "".join(f"    {literal(line)}\n" for line in [*lines, rest])
    return f"(\n{rows})"
