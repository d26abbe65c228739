"""What fires on texts, as code."""

from typing import Any

from saescope.ledger import KeptEntry
from saescope.records.features import Fit, Ranking
from saescope.records.firings import FeatureFirings, FiringPlace
from saescope.records.lens import ReadLayer, ReadPrediction
from saescope.reports.code import call, literal
from saescope.reports.desk import Desk, handles_of
from saescope.reports.picking import picked
from saescope.reports.replays.replay import (
    CannotReplayError,
    Replay,
    dataset_of,
    found,
    options,
    stored,
    texts_in,
)

_RANK: dict[str, Any] = {"rank_by": "max", "k": 10, "offset": 0, "include_special": False}


def top_features(entry: KeptEntry, desk: Desk) -> Replay:
    """A ranking."""
    asked, handles = entry.arguments, handles_of(entry)
    given = [desk.model(entry, handles[0]), desk.saes(entry, handles)]
    given.append(desk.read(entry, handles, texts_in(entry, desk)))
    named = options(entry, _RANK)
    if asked.get("against") or asked.get("against_file"):
        named["against"] = desk.read(entry, handles, texts_in(entry, desk, "against"))
    kept = stored(entry, Ranking)
    if any(row.get("density") is not None for row in kept["features"]):
        indexes = [desk.index(entry, handle) for handle in handles]
        named["index"] = indexes[0] if len(indexes) == 1 else f"[{', '.join(indexes)}]"
    return Replay(found("ss.rank_features", given, named), kept)


def encode_text(entry: KeptEntry, desk: Desk) -> Replay:
    """Features at tokens, places of named features, or readings through a lens."""
    if entry.arguments.get("features"):
        return _places(entry, desk)
    return _readings(entry, desk) if entry.arguments.get("lens") else _tokens(entry, desk)


def _tokens(entry: KeptEntry, desk: Desk) -> Replay:
    asked, handles, document = entry.arguments, handles_of(entry), entry.document
    model, saes = desk.model(entry, handles[0]), desk.saes(entry, handles)
    texts = desk.read(entry, handles, texts_in(entry, desk))
    named = options(entry, {"positions": [], "include_special": False})
    code = found("ss.encode_stack", [f"ss.as_stack({model}, {saes})", texts], named)
    first, last = asked["offset"], asked["offset"] + asked["limit"]
    code += f"""
rows = [
    (each.texts[n], pos)
    for n, text in enumerate(found[0].texts)
    for pos in range(len(text.tokens))
    for each in found
    if each.texts[n].counted[pos]
][{first}:{last}]
tokens = [
    {{
        "token": text.tokens.strings[pos],
        "l0": text.l0(pos),
        "features": text.at(pos, {asked["top_k"]}),
    }}
    for text, pos in rows
]"""
    rows = [
        {
            "token": row["token"],
            "l0": row["l0"],
            "features": [[each["feature"], each["activation"]] for each in row["features"]],
        }
        for row in document["tokens"]
    ]
    fits = document.get("by_sae") or [document]
    kept = {"tokens": rows, "fit": picked(fits, list[Fit] | tuple[Fit, ...], places={})}
    return Replay(code, kept, '{"tokens": tokens, "fit": found}')


def _places(entry: KeptEntry, desk: Desk) -> Replay:
    asked, (handle, *_) = entry.arguments, handles_of(entry)
    model, sae = desk.model(entry, handle), desk.sae(entry, handle)
    bos = {"prepend_bos": f"{sae}.cfg.metadata.prepend_bos"}
    if asked.get("dataset"):
        named = options(entry, {"n_tokens": 20_000, "pattern": ""}) | bos
        texts = call("ss.dataset_passages", [model, dataset_of(entry, desk)], named)
    else:
        named = options(entry, {"pattern": "", "positions": []}) | bos
        texts = call("ss.text_passages", [model, texts_in(entry, desk)], named)
    named = {"features": literal(asked["features"])} | options(entry, {"include_special": False})
    code = found("ss.find_firings", [model, sae, texts], named)
    kept = {
        "features": picked(entry.document["features"], list[FeatureFirings], places={}),
        "places": picked(entry.document.get("places", []), list[FiringPlace], places={}),
        **{name: entry.document[name] for name in ("n_tokens", "n_left_out", "n_sinks")},
    }
    page = {"offset": literal(asked["offset"])}
    page |= {"one_a_text": "True"} if asked.get("dataset") else {}
    listed = call("found.places", [literal(asked["limit"])], page)
    counts = ", ".join(f'"{name}": found.{name}' for name in ("n_tokens", "n_left_out", "n_sinks"))
    return Replay(code, kept, f'{{"features": found.features, "places": {listed}, {counts}}}')


def _readings(entry: KeptEntry, desk: Desk) -> Replay:
    asked, handles = entry.arguments, handles_of(entry)
    saes = [desk.sae(entry, handle) for handle in handles]
    texts = desk.read(entry, handles, texts_in(entry, desk))
    named = {"saes": f"[{', '.join(saes)}]"} | options(entry, {"positions": []})
    named |= _lens(entry, desk.model(entry, handles[0]))
    code = found("ss.read_lens", [desk.model(entry, handles[0]), texts], named)
    first, last = asked["offset"], asked["offset"] + asked["limit"]
    code += f"""
positions = found.positions[{first}:{last}]
places = [(at.text_index, at.pos) for at in positions]
layers = [row for row in found.layers if (row.text_index, row.pos) in places]"""
    rows = entry.document["readings"]
    flat = [layer for row in rows for layer in row["layers"]]
    kept = {
        "positions": picked(rows, list[ReadPrediction], places={}),
        "layers": picked(flat, list[ReadLayer], places={}),
    }
    return Replay(code, kept, '{"positions": positions, "layers": layers}')


def _lens(entry: KeptEntry, model: str) -> dict[str, str]:
    """The lens of a reading as an argument; none for the logit lens, which is made of the model."""
    name, facts = entry.arguments["lens"], entry.document["lens"]["facts"]
    if name == "logit":
        return {}
    if name == "jacobian":
        if facts["corpus"] != "embedded":
            raise CannotReplayError("its lens was fitted on a text that it does not name")
        of = {"first_layer": min(facts["layers"]), "n_prompts": facts["n_prompts"]}
        of |= {"context_size": facts["n_tokens"]}
        # one that is kept is opened
        return {"lens": call("ss.fit_lens", [model], {key: literal(of[key]) for key in of})}
    if facts["revision"] is None:
        raise CannotReplayError(
            f"its lens {name} is a pickle of this machine, which a script does not open"
        )
    return {"lens": call("ss.open_lens", [model, literal(name)])}
