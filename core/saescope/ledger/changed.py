"""What results say of one feature that was changed by itself, or whose effect was estimated: a
reader for each kind of result. Several changed at once, and a condition, say nothing of one."""

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from saescope.controls import ENOUGH, LEVEL, at_least
from saescope.ledger.entry import KeptEntry
from saescope.ledger.found import (
    LEAST_PROMPTS,
    NEUTRAL,
    Row,
    agree,
    can_be_said,
    finding,
    going,
    joined,
    n_distinct,
    token_of,
)
from saescope.ledger.statistics import BY_RANK, beside
from saescope.records.claims import FeatureTest

PER_KL = "nats per nat of KL"


def the_edit(entry: KeptEntry) -> Row | None:
    """The one feature that a call changed, everywhere that it may; None where there were several,
    or a condition."""
    edits = entry.arguments.get("edits") or entry.arguments.get("features") or []
    edits = [each for each in edits if isinstance(each, dict)]
    alone = len(edits) == 1 and edits[0].get("when_feature", -1) < 0
    return edits[0] if alone else None


def up(edit: Row, times: float = 1.0) -> int:
    """Whether an edit makes more of the feature (1) or less (-1); 0: a clamp depends on the value
    that the feature had, and a projection takes away what others write along its direction too."""
    mode, strength = edit["mode"], edit["strength"] * times
    if mode == "project_out" or (mode == "clamp" and strength > 0):
        return 0
    if mode in ("ablate", "clamp"):
        return -1
    return 1 if strength > (1.0 if mode == "scale" else 0.0) else -1


def done_to_it(edit: Row, unit: str, times: float = 1.0) -> str:
    """An edit in words."""
    strength = edit["strength"] * times
    amount = {
        "typical": f"{strength:g} times its typical activation",
        "max": f"{strength:g} times its maximum",
    }.get(unit, f"{strength:g}")
    said = {
        "add": f"adding {amount}",
        "clamp": f"clamping it to {amount}",
        "scale": f"scaling it by {strength:g}",
        "ablate": "ablating it",
        "project_out": "projecting its direction out",
    }[edit["mode"]]
    return said + at_positions(edit.get("positions") or [])


def at_positions(positions: Sequence[int]) -> str:
    """Where an edit acts, in words; empty where it acts everywhere."""
    listed = ", ".join(str(each) for each in positions)
    return f" at position{'s' * (len(positions) > 1)} {listed}" if positions else ""


def attribution(entry: KeptEntry) -> Iterator[FeatureTest]:
    """An attribution: estimates, or pairs of feature and position ablated one by one."""
    done, by_feature = entry.document, dict[tuple[str | None, int], list[Row]]()
    for row in done["features"]:
        by_feature.setdefault((row.get("sae"), row["feature"]), []).append(row)
    for (sae, feature), rows in by_feature.items():
        yield finding(
            entry,
            feature,
            sae=sae,
            effect=token_of(done["target"]),
            against=done["against"] and token_of(done["against"]),
            measure=done["measure"],
            prompts=(entry.arguments["prompt"],),
            n_prompts=1,
            **_attributed(done, rows),
        )


def _attributed(done: Row, rows: Sequence[Row]) -> dict[str, Any]:
    measured = [row["measured_effect"] for row in rows]
    where = [row["pos"] for row in rows]
    if None in measured:
        size = sum(row["attribution"] for row in rows)
        said = {"kind": "estimate", "level": "correlates", "direction": going(size), "size": size}
        return said | {"setting": done.get("method", "gradient")}
    size, apart = sum(measured), ", one after the other" if len(rows) > 1 else ""
    ways = {going(each) for each in measured if each}
    # The joint ablation, which has controls, is of all listed pairs.
    alone = done["joint"] if len(done["features"]) == 1 else None
    return {
        "size": -size,  # with it less without it: what ablating it takes away
        "direction": going(size) if len(ways) < 2 else "",
        "setting": f"ablating it{at_positions(where)}{apart}",
        **beside(alone and alone["control"], size),
    }


def intervention(entry: KeptEntry) -> Iterator[FeatureTest]:
    """One edit, on one prompt or on several."""
    done, edit = entry.document, the_edit(entry)
    if edit is None or not done["touched"] or done["effect"] is None:
        return
    said: dict[str, Any] = {
        "sae": edit.get("sae"),
        "measure": done.get("measure"),
        "setting": done_to_it(edit, entry.arguments.get("unit", "typical")),
    }
    if done.get("on_prompts"):
        for told in _on_prompts(entry, edit):
            yield finding(entry, edit["feature"], **said, **told)
        return
    before = done["before"]
    yield finding(
        entry,
        edit["feature"],
        effect=token_of(before["target"]),
        against=before["against"] and token_of(before["against"]),
        direction=going(done["effect"], up(edit)),
        size=done["effect"],
        prompts=(entry.arguments["prompt"],),
        n_prompts=1,
        **said,
        **beside(done["control"], done["effect"]),
    )


def _on_prompts(entry: KeptEntry, edit: Row) -> Iterator[dict[str, Any]]:
    """One effect of all prompts that were touched; where their targets differ, one of each, beside
    no controls: these are of the mean over all."""
    done = entry.document
    rows = dict(zip(entry.arguments["prompts"], done["on_prompts"], strict=True))
    touched = {prompt: row for prompt, row in rows.items() if row["touched"]}
    targets = dict.fromkeys(row["target"] for row in touched.values())
    for target in targets:
        own = {prompt: row for prompt, row in touched.items() if row["target"] == target}
        effects = [row["effect"] for row in own.values()]
        size = done["effect"] if len(targets) == 1 else mean(effects)
        named = target if can_be_said(target) else entry.arguments["target"] or target
        yield {
            "effect": named,
            "against": entry.arguments["against"],
            "direction": going(size, up(edit)),
            "size": size,
            "prompts": tuple(own),
            "n_prompts": len(own),
            "consistent": len(targets) == 1 and _all_agree(done, tuple(own)),
            **beside(done["control"] if len(targets) == 1 else None, size),
        }


def _all_agree(done: Row, prompts: Sequence[str]) -> bool:
    """Whether every prompt goes the way of the mean, and they are enough to say so."""
    sign = done.get("sign_test") or {}
    with_it = sign.get("n_up" if done["effect"] > 0 else "n_down", 0)
    enough = n_distinct(prompts) >= LEAST_PROMPTS and (sign.get("p") or 1.0) <= LEVEL
    return enough and with_it == done["n_touched"]


def generation(entry: KeptEntry) -> Iterator[FeatureTest]:
    """A generation: the named concept's log-probability along the unsteered text."""
    done, given, edit = entry.document, entry.arguments, the_edit(entry)
    if edit is None or not given["concept_tokens"]:
        return
    rows = [row for row in done.get("table") or [] if row["concept_logprob"] is not None]
    if not rows and done["concept_logprob"] is None:
        return
    prompts = tuple(dict.fromkeys(given["prompts"] or [given["prompt"]]))
    told = _of_table(rows, edit, given) if rows else _of_text(done, edit, given)
    ends, n = told.pop("interval"), n_distinct(prompts)
    yield finding(
        entry,
        edit["feature"],
        sae=edit.get("sae"),
        effect=joined(given["concept_tokens"]),
        unit="nats a token of the unsteered text",
        prompts=prompts,
        n_prompts=len(prompts),
        consistent=agree(ends, n),
        **told,
    )


def _of_text(done: Row, edit: Row, given: Row) -> dict[str, Any]:
    size = done["concept_logprob"]
    return {
        "size": size,
        "direction": going(size, up(edit)),
        "setting": done_to_it(edit, given["unit"]),
        "interval": None,
        **beside(done.get("concept_control"), size),
    }


def _of_table(rows: Sequence[Row], edit: Row, given: Row) -> dict[str, Any]:
    """The typical strength, not the best of them, is what a table says."""
    ranked = sorted(rows, key=lambda row: 1.0 if row["p"] is None else row["p"])
    middle = ranked[len(ranked) // 2]
    size, strength, n = middle["concept_logprob"], middle["strength"], len(rows)
    tested = middle["p"] is not None
    told: dict[str, Any] = {"level": "controlled" if tested else "intervened"}
    if tested:
        told |= {"n_controls": ENOUGH, "beyond": bool(middle["beyond"])}
        told |= {"p": middle["p"], "p_by": BY_RANK}
    typical = f", the typical one of {n} strengths," if n > 1 else ""
    return {
        "size": size,
        "direction": going(size, up(edit, strength)),
        "setting": f"{done_to_it(edit, given['unit'], strength)}{typical}",
        "interval": middle["interval"],
        **told,
    }


def strength(entry: KeptEntry) -> Iterator[FeatureTest]:
    """A search for a strength: the one that was chosen, on prompts that had no part in it."""
    done, given, edit = entry.document, entry.arguments, the_edit(entry)
    if edit is None or not done["steered"]:
        return
    size, ends = done["steered"]["concept_logprob"], done["steered"]["interval"]
    told = beside(done["random"], size)
    if told.get("beyond") and done["verdict"] not in ("usable", "weak"):
        told["beyond"] = False
    yield finding(
        entry,
        edit["feature"],
        sae=edit.get("sae"),
        effect=joined(given["concept"]),
        unit="nats a token of the unsteered texts",
        direction=going(size, up(edit, done["strength"])),
        size=size,
        prompts=tuple(given["held_out"] or given["prompts"]) or (NEUTRAL,),
        n_prompts=done["n_held_out"],
        consistent=agree(ends, done["n_held_out"]),
        setting=done_to_it(edit, given["unit"], done["strength"]),
        **told,
    )


def causes(entry: KeptEntry) -> Iterator[FeatureTest]:
    """A search by effect: pushes, compared at one KL beside random features and beside
    random directions that are the best of as many as there are features."""
    done, given = entry.document, entry.arguments
    search = done["search"]
    n, n_pass, n_tried = (search[name] for name in ("n_prompts", "n_causes", "n_measured"))
    n_controls = min(search[name]["n"] for name in ("random_features", "random_directions"))
    chance = n_pass and at_least(n_pass, n_tried) > LEVEL
    # With texts as well, `against` are texts without the concept.
    is_choice = bool(given["texts"] or given["texts_file"])
    for row in done["features"]:
        if row.get("causes") is None:
            continue
        size, enough = row["effect"] if is_choice else row["score"], n_controls >= ENOUGH
        told = {"beyond": row["causes"]} if enough else {}
        yield finding(
            entry,
            row["feature"],
            effect=joined(given["causes"]),
            against="" if is_choice else joined(given["against"]),
            unit=PER_KL,
            direction=going(size),
            level="controlled" if enough else "intervened",
            size=size,
            n_controls=n_controls,
            prompts=tuple(given["prompts"]) or (NEUTRAL,),
            n_prompts=n,
            consistent=agree(row["interval"], n),
            setting=f"pushing it to {search['kl']:g} nats of KL",
            chosen=f"{n_pass} of {n_tried} that were pushed pass, as chance lets" if chance else "",
            **told,
        )


def writers(entry: KeptEntry) -> Iterator[FeatureTest]:
    """A search by tokens: the best writers, pushed at the end of neutral prompts."""
    for row in entry.document["features"]:
        if row.get("push") is not None:
            yield finding(
                entry,
                row["feature"],
                effect=joined(entry.arguments["tokens"]),
                direction=going(row["push"]),
                size=row["push"],
                prompts=(NEUTRAL,),
                setting="adding its typical activation",
                **beside(row["control"], row["push"]),
            )


def pair(entry: KeptEntry) -> Iterator[FeatureTest]:
    """A comparison of prompts: single features patched from prompt b into a."""
    done = entry.document
    gap = done["difference_b"] - done["difference_a"]
    for row in done["features"]:
        change = row["activation_b"] - row["activation_a"]
        if row["closed"] is None or not change:
            continue
        size = row["closed"] * gap
        yield finding(
            entry,
            row["feature"],
            sae=row.get("sae"),
            effect=token_of(done["target"]),
            against=token_of(done["against"]),
            direction=going(size, 1 if change > 0 else -1),
            level="intervened",
            size=size,
            prompts=(entry.arguments["a"],),
            n_prompts=1,
            setting=f"giving it the value of the other prompt{at_positions([row['pos_a']])}",
        )


def circuit(entry: KeptEntry) -> Iterator[FeatureTest]:
    """A circuit: nodes ablated one by one with nothing held, by the first target's loss."""
    done = entry.document
    named = _first_target(entry)
    for node in done.get("nodes") or []:
        lost = node.get("lost")
        if node["kind"] != "feature" or lost is None or named is None:
            continue
        yield finding(
            entry,
            node["feature"],
            sae=done["saes"][node["sae"]],
            effect=named[0],
            against=named[1],
            direction=going(lost),
            level="intervened",
            size=-lost,
            prompts=(entry.arguments["prompt"],),
            n_prompts=1,
            setting=f"ablating it{at_positions([node['pos']])}",
        )


def _first_target(entry: KeptEntry) -> tuple[str, str] | None:
    """The token whose loss was measured, and the one against it; None where it cannot be told."""
    targets = entry.document.get("targets") or []
    if not targets:
        return None
    first = targets[0]
    if first["against"] is None:
        return token_of({"token": first["label"], "id": first["token"]}), ""
    # The label of a difference is "one - other", and tokens may have a dash too.
    one, parts = (entry.arguments["targets"] or [""])[0], first["label"].split(" - ")
    other = entry.arguments["against"]
    if len(parts) == 2 and can_be_said(first["label"]):
        return parts[0], parts[1]
    return (one, other) if one and other else None
