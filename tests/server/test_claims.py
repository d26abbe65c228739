"""False and overstated claims are refused or lowered, true ones stand; what is missing is named
with its call."""

from pathlib import Path
from typing import Any

import pytest
from tests.server.claimed import CHANCE, OTHER, TOKEN, WEAK, WRITER, Record, recorded
from tests.server.helpers import call, refuse

from saescope.ledger import Ledger, findings
from saescope.models import LanguageModel

RAISES = f"Adding feature {WRITER} raises the probability of ' and'."
MORE_THAN = f"Adding feature {WRITER} raises ' and' against ' of'."
SAYS = f"Feature {WRITER} has to do with ' and'."


@pytest.fixture(scope="module")
def made(glass: LanguageModel, glass_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return recorded(tmp_path_factory.mktemp("claims"), glass, glass_dir)


@pytest.fixture
def record(made: Record, own_home: Path) -> Record:
    made.keep(own_home)
    return made


def asked(record: Record, *results: str, **said: Any) -> dict[str, Any]:
    return {
        "text": RAISES,
        "sae": record.sae,
        "feature": WRITER,
        "effect": TOKEN,
        "direction": "raises",
        "level": "controlled",
        "results": [record.ids[name] for name in results],
    } | said


NAMED = f"chance {CHANCE} at 12"
LOWERS = {"text": "It lowers the token.", "direction": "lowers"}
MORE = ("many prompts", "no controls", "few controls")
FALSE: dict[str, tuple[tuple[str, ...], dict[str, Any], str, str | None, str]] = {
    "another feature": (
        ("one prompt",),
        {"feature": 8, "text": "It raises it."},
        "refused",
        None,
        f"tests feature {WRITER}",
    ),
    "the text names another feature": (
        ("one prompt",),
        {"text": "Feature 8 raises the probability of ' and'."},
        "refused",
        "controlled",
        "names feature 8",
    ),
    "another SAE's index": (("other SAE",), {}, "refused", None, "another SAE"),
    "a label as evidence": (("label",), {}, "refused", None, "only a name"),
    "a card as evidence": (("card",), {}, "refused", None, "only a name"),
    "an estimate that causes": (
        ("attributed",),
        {"feature": 118, "text": "It causes the prediction."},
        "refused",
        "correlates",
        "intervened",
    ),
    "an estimate that was measured": (
        ("attributed",),
        {"feature": 118, "text": "It is associated with it.", "level": "intervened"},
        "lowered",
        "correlates",
        "intervened was asked for",
    ),
    "no controls": (("no controls",), {}, "lowered", "intervened", "controlled was asked for"),
    "too few controls": (
        ("few controls",),
        {},
        "lowered",
        "intervened",
        "controlled was asked for",
    ),
    "specific without controls": (
        ("no controls",),
        {"text": "It specifically raises it.", "level": "intervened"},
        "refused",
        "intervened",
        "'specifically'",
    ),
    "replicated on one prompt": (
        ("one prompt",),
        {"level": "replicated"},
        "lowered",
        "controlled",
        "replicated was asked for",
    ),
    "always, on one prompt": (
        ("one prompt",),
        {"text": "It always raises it."},
        "refused",
        "controlled",
        "'always'",
    ),
    "necessary in general": (
        ("one prompt",),
        {"text": "It is necessary for every prompt."},
        "refused",
        "controlled",
        "'necessary'",
    ),
    "another token": (("other token",), {}, "refused", None, repr(OTHER)),
    "the other direction": (("one prompt",), LOWERS, "refused", None, "raises"),
    "words of the other direction": (
        ("one prompt",),
        {"text": "It suppresses the token."},
        "refused",
        "controlled",
        "the text says",
    ),
    "several changed at once": (("both",), {}, "refused", None, "several changed at once"),
    "no more than random features": (
        ("weak",),
        {**LOWERS, "feature": WEAK},
        "refused",
        None,
        "no more than its controls",
    ),
    "a difference told as one token": (("difference",), {}, "refused", None, "against"),
    "a difference told as a probability": (
        ("difference",),
        {"against": OTHER},
        "refused",
        "controlled",
        "does not say against what",
    ),
    "the one of seven features that moved": (
        (NAMED,),
        {**LOWERS, "feature": CHANCE},
        "lowered",
        "intervened",
        "looks",
    ),
    "the one of three strengths, specifically": (
        (NAMED,),
        {"text": "It specifically lowers it.", "direction": "lowers", "feature": CHANCE},
        "refused",
        "intervened",
        "looks",
    ),
    "firing as an effect": (
        ("fires",),
        {"feature": 1, "text": "It makes the model say it.", "effect": " went"},
        "refused",
        None,
        "where it fires",
    ),
    "firing with words of effects": (
        ("fires",),
        {
            "feature": 1,
            "text": "It fires on ' went' and causes a verb.",
            "effect": " went",
            "direction": "fires",
            "level": "seen",
        },
        "refused",
        "seen",
        "'causes'",
    ),
    "firing on another token": (
        ("fires",),
        {"feature": 1, "text": "It fires.", "effect": " king", "direction": "fires"},
        "refused",
        None,
        "where it fires (' went')",
    ),
    "one look as a tendency": (
        ("fires",),
        {
            "feature": 1,
            "text": "It fires on ' went'.",
            "effect": " went",
            "direction": "fires",
            "level": "correlates",
        },
        "lowered",
        "seen",
        "correlates was asked for",
    ),
}


@pytest.mark.parametrize("name", FALSE)
async def test_a_false_or_overstated_claim_is_refused_or_lowered(name: str, record: Record) -> None:
    results, said, verdict, level, why = FALSE[name]
    done = await call(record.state(), "claim", **asked(record, *results, **said))
    assert (done["verdict"], done["level"]) == (verdict, level), done
    told = [*done["reasons"], *(each["why"] for each in done["checks"])]
    assert any(why in each for each in told), told
    assert (done["printed"] == "") is (verdict == "refused")


TRUE: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "one prompt, controlled": (("one prompt",), {}, "controlled"),
    "many prompts": (
        ("many prompts",),
        {"text": "It consistently raises it.", "level": "replicated"},
        "replicated",
    ),
    "two prompts": (("one prompt", "another prompt"), {"level": "replicated"}, "replicated"),
    "no more than was done": (("no controls",), {"level": "intervened"}, "intervened"),
    "less than was done": (("many prompts",), {"text": SAYS, "level": "seen"}, "replicated"),
    "a difference": (("difference",), {"against": OTHER, "text": MORE_THAN}, "controlled"),
    "it fires": (
        ("fires",),
        {
            "feature": 1,
            "text": "It fires on ' went'.",
            "effect": " went",
            "direction": "fires",
            "level": "seen",
        },
        "seen",
    ),
}


@pytest.mark.parametrize("name", TRUE)
async def test_a_true_claim_stands_and_is_printed_with_what_it_rests_on(
    name: str, record: Record
) -> None:
    results, said, level = TRUE[name]
    claim = asked(record, *results, **said)
    done = await call(record.state(), "claim", **claim)
    assert (done["verdict"], done["level"]) == ("stands", level), done
    assert done["printed"].startswith(claim["text"]) and claim["level"] in done["printed"]
    assert all(record.ids[name] in done["printed"] for name in results)
    assert record.sae in done["printed"] and done["result_id"]


async def test_an_estimate_supports_an_association(record: Record) -> None:
    kept = Ledger().bring(record.ids["attributed"])
    direction = next(each.direction for each in findings(kept) if each.feature == 118)
    said = {"feature": 118, "direction": direction, "text": "It is associated with ' and'."}
    done = await call(
        record.state(), "claim", **asked(record, "attributed", **said, level="correlates")
    )
    assert (done["verdict"], done["evidence"]) == ("stands", "correlational")


async def test_what_is_missing_is_named_with_the_call_that_makes_up_for_it(
    record: Record,
) -> None:
    state = record.state()
    done = await call(state, "claim", **asked(record, "no controls"))
    (missing,) = done["missing"]
    assert missing["what"] == "controls"
    (step,) = [each for each in done["next"] if "n_controls=19" in each]
    assert step.startswith('intervene(sae="') and f'"feature": {WRITER}' in step
    assert f'target="{TOKEN}"' in step and "my mother" in step.lower()
    assert '"mode": "add"' in step and 'unit="raw"' in step, "the same edit as before"
    done = await call(state, "claim", **asked(record, "one prompt"))
    assert done["missing"][0]["what"] == "prompts" and "prompts=[" in done["next"][-1]


async def test_looks_are_counted_and_paid_for(record: Record) -> None:
    state = record.state()
    done = await call(
        state, "claim", **asked(record, NAMED, **LOWERS, feature=CHANCE), response_format="detailed"
    )
    looks = done["looks"]
    # seven features at one strength, one of them at two more, the writer and the weak one
    assert looks["n_counted"] >= 7 + 2 + 2 and looks["n_settings"] == 3
    assert looks["corrected"] == pytest.approx(min(1, looks["p"] * looks["n_counted"]), rel=1e-3)
    strong = await call(state, "claim", **asked(record, "one prompt"))
    assert strong["looks"]["corrected"] < 0.05


async def test_results_that_were_not_named_and_speak_against_it_are_brought_up(
    record: Record,
) -> None:
    done = await call(record.state(), "claim", **asked(record, "label", **LOWERS))
    there = {each["result_id"] for each in done["contradicting"]}
    assert there == {record.ids[name] for name in ("one prompt", "another prompt", *MORE)}
    assert "5 other results speak against it" in done["summary"]
    assert all("it raises it" in each["why"] for each in done["contradicting"])


async def test_a_claim_rests_on_kept_results_alone(record: Record) -> None:
    state = record.state()
    error = await refuse(state, "claim", **asked(record, results=["0" * 12]))
    assert error["code"] == "RESULT_NOT_FOUND"
    error = await refuse(state, "claim", **asked(record, results=[]))
    assert error["code"] == "MISSING_ARGUMENT" and error["field"] == "results"
    Ledger().investigations.add("writer", [record.ids["many prompts"]])
    said = asked(record, results=[], investigation="writer", level="replicated")
    assert (await call(state, "claim", **said))["verdict"] == "stands"


async def test_a_claim_is_kept_as_a_result_itself(record: Record) -> None:
    state = record.state()
    done = await call(state, "claim", **asked(record, "one prompt"))
    back = await call(state, "results", result_id=done["result_id"], response_format="detailed")
    assert back["document"]["printed"] == done["printed"]
