"""What kept results say of single features: one reader for each kind of result."""

from collections.abc import Callable, Iterator, Mapping
from math import atan, cos, exp, lgamma, pi, sqrt
from typing import Any

from saescope.ledger.entry import KeptEntry
from saescope.records.claims import FeatureTest

ENOUGH = 19
"""Controls with which an effect beyond all of them has p = 1/20."""
LEVEL = 0.05
LEAST_PROMPTS = 6
"""Prompts of which all must agree for a sign test to reach p = 0.05."""
NEUTRAL = "the neutral prompts"
Row = Mapping[str, Any]


def findings(entry: KeptEntry) -> list[FeatureTest]:
    """Everything that a result says of features one by one; nothing for one that tests none."""
    read = _READERS.get(entry.tool)
    return [*read(entry)] if read else []


def _finding(entry: KeptEntry, feature: int, **said: Any) -> FeatureTest:
    sae = said.pop("sae", None) or entry.arguments.get("sae") or next(iter(entry.saes), "")
    usual: dict[str, Any] = {
        "against": "",
        "beyond": None,
        "size": None,
        "p": None,
        "n_controls": 0,
    }
    usual |= {"prompts": (), "n_prompts": 0, "consistent": False, "setting": ""}
    return FeatureTest(
        result_id=entry.result_id,
        sae=sae,
        weights=_weights(entry, sae),
        feature=feature,
        **(usual | said),
    )


def _weights(entry: KeptEntry, sae: str) -> str:
    origin = entry.document.get("provenance") or {}
    several = {each["sae"]: each["weights_hash"] for each in origin.get("saes", [])}
    return several.get(sae) or origin.get("weights_hash") or ""


def _going(size: float | None) -> str:
    return "none" if not size else "raises" if size > 0 else "lowers"


def _beside(control: Row | None, size: float) -> dict[str, Any]:
    """Level, p and whether the effect is beyond its controls; fewer than enough count as none."""
    n = (control or {}).get("n") or 0
    if control is None or n < ENOUGH:
        return {"level": "intervened", "n_controls": n}
    p = student(size, control["mean"], control.get("sd"), n) or control.get("p")
    return {"level": "controlled", "n_controls": n, "beyond": bool(control["outside"]), "p": p}


def student(size: float, mean: float, sd: float | None, n: int) -> float | None:
    """Two-sided p of one more draw as far off as this, if the controls are normal: ranks cannot
    fall below 1/(n + 1), whatever is left to correct."""
    if not sd or n < 3:
        return None
    t, df = abs(size - mean) / (sd * sqrt(1 + 1 / n)), n - 1
    start, steps = atan(t / sqrt(df)), 400
    width = (pi / 2 - start) / steps
    weights = (1 if i in (0, steps) else 4 if i % 2 else 2 for i in range(steps + 1))
    area = sum(
        weight * cos(min(start + i * width, pi / 2)) ** (df - 1) for i, weight in enumerate(weights)
    )
    scale = 2 * exp(lgamma((df + 1) / 2) - lgamma(df / 2)) / sqrt(pi)
    return min(1.0, scale * area * width / 3)


def _effect(tokens: Any) -> str:
    return "|".join(tokens)


def _attribution(entry: KeptEntry) -> Iterator[FeatureTest]:
    done, by_feature = entry.document, dict[tuple[str | None, int], list[Row]]()
    for row in done["features"]:
        by_feature.setdefault((row.get("sae"), row["feature"]), []).append(row)
    for (sae, feature), rows in by_feature.items():
        measured = [row["measured_effect"] for row in rows]
        told = {"level": "correlates"}
        size = sum(row["attribution"] for row in rows)
        if None not in measured:
            size = sum(measured)
            alone = done["joint"] if len(done["features"]) == 1 else None
            told = _beside(alone and alone["control"], size)
        yield _finding(
            entry,
            feature,
            sae=sae,
            effect=done["target"]["token"],
            against=(done["against"] or {}).get("token", ""),
            direction=_going(size),
            size=size,
            prompts=(entry.arguments["prompt"],),
            n_prompts=1,
            setting="ablate",
            **told,
        )


def _changed(entry: KeptEntry, name: str) -> Row | None:
    """The one feature that a call changed, everywhere that it may; None where there were several,
    or a condition."""
    edits = entry.arguments.get(name) or []
    alone = len(edits) == 1 and edits[0].get("when_feature", -1) < 0
    return edits[0] if alone else None


def _up(edit: Row, times: float = 1.0) -> int:
    """Whether an edit makes more of the feature (1) or less (-1)."""
    mode, strength = edit["mode"], edit["strength"] * times
    if mode in ("ablate", "project_out"):
        return -1
    least = {"scale": 1.0, "clamp": 1e-9}.get(mode, 0.0)
    return 1 if strength > least else -1


def _intervention(entry: KeptEntry) -> Iterator[FeatureTest]:
    done, edit = entry.document, _changed(entry, "edits")
    if edit is None or not done["touched"] or done["effect"] is None:
        return
    prompts = tuple(entry.arguments["prompts"] or [entry.arguments["prompt"]])
    first = done["before"] or (done.get("on_prompts") or [{}])[0]
    target = first.get("target") or entry.arguments["target"]
    sign = done.get("sign_test") or {}
    yield _finding(
        entry,
        edit["feature"],
        sae=edit.get("sae"),
        effect=target["token"] if isinstance(target, dict) else target,
        against=entry.arguments["against"],
        direction=_going(done["effect"] * _up(edit)),
        size=done["effect"],
        prompts=prompts,
        n_prompts=done.get("n_touched") or len(prompts),
        consistent=len(prompts) >= LEAST_PROMPTS and sign.get("p", 1.0) <= LEVEL,
        setting=f"{edit['mode']} {edit['strength']:g} {edit.get('positions') or ''}".strip(),
        **_beside(done["control"], done["effect"]),
    )


def _generation(entry: KeptEntry) -> Iterator[FeatureTest]:
    done, given, edit = entry.document, entry.arguments, _changed(entry, "features")
    if edit is None or not given["concept_tokens"]:
        return
    rows = [row for row in done.get("table") or [] if row["concept_logprob"] is not None]
    if rows:
        # The typical strength, not the best of them, is what a table says.
        ranked = sorted(rows, key=lambda row: 1.0 if row["p"] is None else row["p"])
        middle = ranked[len(ranked) // 2]
        size, strength = middle["concept_logprob"], middle["strength"]
        tested = middle["p"] is not None
        told: dict[str, Any] = {"level": "controlled" if tested else "intervened"}
        told |= {"n_controls": ENOUGH, "beyond": bool(middle["beyond"])} if tested else {}
        told |= {"p": middle["p"]}
        setting = ", ".join(f"{row['strength']:g}" for row in rows)
    elif done["concept_logprob"] is None:
        return
    else:
        change, strength, setting = done["concept_logprob"], 1.0, f"{edit['strength']:g}"
        size = change["change"] if isinstance(change, dict) else change
        told = _beside(done.get("concept_control"), size)
    prompts = tuple(given["prompts"] or [given["prompt"]])
    yield _finding(
        entry,
        edit["feature"],
        sae=edit.get("sae"),
        effect=_effect(given["concept_tokens"]),
        direction=_going(size * _up(edit, strength)),
        size=size,
        prompts=prompts,
        n_prompts=len(prompts),
        setting=f"{edit['mode']} {setting}",
        **told,
    )


def _strength(entry: KeptEntry) -> Iterator[FeatureTest]:
    done, edit = entry.document, _changed(entry, "features")
    if edit is None or not done["steered"]:
        return
    size, ends = done["steered"]["concept_logprob"], done["steered"]["interval"]
    told = _beside(done["random"], size)
    told |= {"beyond": bool(told.get("beyond")) and done["verdict"] in ("usable", "weak")}
    yield _finding(
        entry,
        edit["feature"],
        sae=edit.get("sae"),
        effect=_effect(entry.arguments["concept"]),
        direction=_going(size * _up(edit, done["strength"])),
        size=size,
        prompts=tuple(entry.arguments["held_out"]) or (NEUTRAL,),
        n_prompts=done["n_held_out"],
        consistent=_agree(ends, done["n_held_out"]),
        setting=f"{edit['mode']} {done['strength']:g}",
        **told,
    )


def _agree(ends: Any, n: int) -> bool:
    return bool(ends) and n >= LEAST_PROMPTS and ends[0] * ends[1] > 0


def _found(entry: KeptEntry) -> Iterator[FeatureTest]:
    done, given = entry.document, entry.arguments
    for row in done["features"]:
        if row.get("causes") is not None and given["causes"]:
            n = done["search"]["n_prompts"]
            yield _finding(
                entry,
                row["feature"],
                effect=_effect(given["causes"]),
                against=_effect(given["against"]),
                direction=_going(row["score"]),
                level="controlled",
                beyond=row["causes"],  # of the best of as many random directions
                size=row["score"],
                n_controls=done["search"]["random_features"]["n"],
                prompts=tuple(given["prompts"]) or (NEUTRAL,),
                n_prompts=n,
                consistent=_agree(row["interval"], n),
                setting=f"add {row['strength']}",
            )
        elif "confirmed" in row and row.get("side") == "texts":
            sure = row["confirmed"] and not row["confounds"]
            level = "correlates" if sure else "seen"
            yield _finding(entry, row["feature"], effect="", direction="fires", level=level)


def _fires(entry: KeptEntry, feature: int, token: str, sae: str | None) -> FeatureTest:
    return _finding(entry, feature, sae=sae, effect=token, direction="fires", level="seen")


def _ranking(entry: KeptEntry) -> Iterator[FeatureTest]:
    for row in entry.document["features"]:
        if row.get("top_token"):
            yield _fires(entry, row["feature"], row["top_token"]["token"], row.get("sae"))


def _tokens(entry: KeptEntry) -> Iterator[FeatureTest]:
    for token in entry.document.get("tokens") or []:
        for row in token.get("features", []):
            if row["activation"] > 0:
                yield _fires(entry, row["feature"], token["token"], row.get("sae"))


def _card(entry: KeptEntry) -> Iterator[FeatureTest]:
    if (feature := entry.document.get("feature")) is not None:
        for row in entry.document.get("examples") or []:
            yield _fires(entry, feature, row["token"], None)


def _label(entry: KeptEntry) -> Iterator[FeatureTest]:
    label = entry.document["label"]
    score = label["score"]
    if isinstance(score, dict) and score["low"] > 0.5:
        yield _finding(
            entry,
            entry.document["feature"],
            effect=label["text"],
            direction="fires",
            level="correlates",
        )


def _pair(entry: KeptEntry) -> Iterator[FeatureTest]:
    done = entry.document
    gap, rows = done["difference_b"] - done["difference_a"], done["features"]
    for row in rows:
        if row["closed"] is None:
            continue
        size = row["closed"] * gap
        more = row["activation_b"] > row["activation_a"]
        yield _finding(
            entry,
            row["feature"],
            sae=row.get("sae"),
            effect=done["target"]["token"],
            against=done["against"]["token"],
            direction=_going(size if more else -size),
            level="intervened",
            size=size,
            prompts=(entry.arguments["a"], entry.arguments["b"]),
            n_prompts=1,
            setting="patch",
        )


def _graph(entry: KeptEntry) -> Iterator[FeatureTest]:
    done = entry.document
    for node in done.get("nodes") or []:
        lost = node.get("lost")
        if node["kind"] != "feature" or lost is None or not done["targets"]:
            continue
        first = done["targets"][0]
        yield _finding(
            entry,
            node["feature"],
            sae=node["sae"] if isinstance(node["sae"], str) else None,
            effect=first["label"],
            against=first["against"] or "",
            direction=_going(lost),
            level="intervened",
            size=lost,
            prompts=(entry.arguments["prompt"],),
            n_prompts=1,
            setting=f"ablate {node['pos']}",
        )


_READERS: Mapping[str, Callable[[KeptEntry], Iterator[FeatureTest]]] = {
    "attribute_logit": _attribution,
    "compare_prompts": _pair,
    "describe_feature": _card,
    "encode_text": _tokens,
    "find_features": _found,
    "intervene": _intervention,
    "label_feature": _label,
    "steer_generate": _generation,
    "steer_search": _strength,
    "top_features": _ranking,
    "trace_circuit": _graph,
}
