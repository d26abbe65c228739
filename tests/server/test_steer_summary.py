"""What the summary of a table of strengths says of its rows."""

from saescope.records.steering import GeneratedText, Metrics, SweepRow
from saescope.steering import Sweep
from saescope.verdicts import Effect
from saescope_mcp.tools.steer import of_table

PLAIN = GeneratedText(
    label="baseline",
    text="x",
    n_tokens=1,
    metrics=Metrics(concept_score=0.0, concept_logprob=0.0, perplexity=2.0, repetition=0.0, kl=0.0),
)


def row(strength: float, nats: float, verdict: Effect, *, beyond: bool = True) -> SweepRow:
    return SweepRow(
        strength=strength,
        concept_logprob=nats,
        interval=None,
        p=0.05 if beyond else 0.6,
        beyond=beyond,
        perplexity=3.0,
        repetition=0.0,
        kl=0.1,
        verdict=verdict,
        text="y",
    )


def table(*rows: SweepRow) -> Sweep:
    return Sweep(
        baseline=PLAIN,
        rows=[*rows],
        unit_values=[1.0],
        unit_source="",
        concept_tokens=[" she"],
        n_left_out=1,
        n_sinks=0,
    )


def test_more_and_less_of_the_concept_are_said_apart() -> None:
    said = of_table(
        table(
            row(0.5, 1.7, Effect.NONE),
            row(1, 2.2, Effect.SPECIFIC),
            row(2, -14.0, Effect.SPECIFIC),
            row(4, -30.0, Effect.DEGENERATE),
        )
    )
    assert said == (
        "The text stays coherent at strength 0.5, 1, 2; it is the unsteered one at strength 0.5; "
        "the concept is more likely at strength 0.5, 1, less likely at strength 2, beyond 19 "
        "random features."
    )


def test_a_concept_within_its_controls_changes_at_none() -> None:
    said = of_table(table(row(1, 0.1, Effect.UNSPECIFIC, beyond=False)))
    assert said == (
        "The text stays coherent at strength 1; the concept changes beyond 19 random features at "
        "none of these."
    )
