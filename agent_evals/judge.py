"""Is a transcript a good answer to its task? Trace, numbers, words, claims and tokens; each fault
with its kind."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from agent_evals.task import Number, Step, Task
from agent_evals.transcript import Call, Transcript

Recompute = Callable[[str, dict[str, Any]], float]
"""A function of `agent_evals.truth` by name, with arguments in which every place is filled in."""

LEVELS = ("observed", "correlational", "intervened", "controlled")
CAUSAL = re.compile(
    r"\b(caus(e|es|ed|al|ally)|responsible for|drives?|proves?|proof that)\b", re.IGNORECASE
)
DENIED = re.compile(
    r"\b(not|no|never|cannot|nothing|neither|without|unclear|whether)\b|n't\b", re.IGNORECASE
)
NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w]|\.\d)\s?%?", re.IGNORECASE
)


class Fault(NamedTuple):
    """Why an answer is not good."""

    kind: str
    text: str


def judge(task: Task, transcript: Transcript, recompute: Recompute) -> list[Fault]:
    """No fault: a good answer."""
    return [
        *_trace(task, transcript.calls),
        *_forbidden(task, transcript.calls),
        *_numbers(task, transcript.report, recompute),
        *_words(task, transcript.report),
        *_evidence(task, transcript),
        *_tokens(task, transcript),
    ]


def _trace(task: Task, calls: Sequence[Call]) -> Iterator[Fault]:
    """Every step is there; a step comes after a call of the kind that it names."""
    for step in task.trace:
        found = [i for i, call in enumerate(calls) if _is(step, call)]
        if not found:
            yield Fault("trace", f"no call {_said(step)}")
            continue
        before = [
            i
            for i, call in enumerate(calls)
            if re.fullmatch(step.after, call.tool) and not call.is_error
        ]
        if step.after and not any(i < found[-1] for i in before):
            yield Fault("trace", f"{step.call} comes before {step.after}")


def _forbidden(task: Task, calls: Sequence[Call]) -> Iterator[Fault]:
    for step in task.forbidden:
        if any(_is(step, call) for call in calls):
            yield Fault("forbidden", f"made the call {_said(step)}")


def _is(step: Step, call: Call) -> bool:
    if not re.fullmatch(step.call, call.tool) or step.fails != call.code:
        return False
    for name, pattern in step.arguments.items():
        if pattern == "absent":
            if name in call.arguments:
                return False
        elif name not in call.arguments or not re.search(
            pattern, json.dumps(call.arguments[name], ensure_ascii=False)
        ):
            return False
    return True


def _said(step: Step) -> str:
    given = ", ".join(f"{name}=~{pattern}" for name, pattern in step.arguments.items())
    return f"{step.call}({given})"


def _numbers(task: Task, report: str, recompute: Recompute) -> Iterator[Fault]:
    for number in task.numbers:
        ((name, arguments),) = number.truth.items()
        truth = recompute(name, arguments)
        said = [
            value
            for sentence in sentences(report)
            if re.search(number.near, sentence, re.IGNORECASE)
            for value in _values(sentence)
        ]
        if not any(_agrees(value, digits, truth, number) for value, digits in said):
            yield Fault(
                "numbers",
                f"{name} is {truth:.4g}; near {number.near!r} the report has "
                f"{[value for value, _ in said]}",
            )


def _values(sentence: str) -> Iterator[tuple[float, float]]:
    """Each number with half a unit of its last digit; a percentage as a share besides."""
    for match in NUMBER.finditer(sentence):
        text = match[0].replace(",", "").replace("\u2212", "-").rstrip("% ").strip()
        decimals = len(text.partition(".")[2].partition("e")[0])
        half = 0.5 * 10.0**-decimals if "e" not in text.lower() else 0.0
        yield float(text), half
        if match[0].endswith("%"):
            yield float(text) / 100, half / 100


def _agrees(value: float, half_digit: float, truth: float, number: Number) -> bool:
    rounding = min(half_digit, 0.05 * abs(truth)) + 1e-9  # "0" is no rounding of 0.3
    return abs(value - truth) <= number.tolerance * abs(truth) + rounding


def _words(task: Task, report: str) -> Iterator[Fault]:
    for pattern in task.words.must:
        if not re.search(pattern, report, re.IGNORECASE):
            yield Fault("words", f"the report lacks {pattern!r}")
    for pattern in task.words.must_not:
        if match := re.search(pattern, report, re.IGNORECASE):
            yield Fault("words", f"the report says {match[0]!r}")


def _evidence(task: Task, transcript: Transcript) -> Iterator[Fault]:
    """Causal words need a measurement that changed the model, among the calls that were made; what
    is denied is not claimed."""
    shown = [
        str(call.result.get("evidence") or "observed")
        for call in transcript.calls
        if not call.is_error
    ]
    best = max((LEVELS.index(level) for level in shown), default=0)
    allowed = min(best, LEVELS.index(task.evidence))
    if allowed >= LEVELS.index("intervened"):
        return
    for sentence in sentences(transcript.report):
        match = CAUSAL.search(sentence)
        if match and not DENIED.search(sentence):
            yield Fault(
                "evidence",
                f"{match[0]!r} is claimed on evidence that is {LEVELS[allowed]}: "
                f"{sentence.strip()[:80]!r}",
            )


def _tokens(task: Task, transcript: Transcript) -> Iterator[Fault]:
    if transcript.n_tokens > task.max_tokens:
        yield Fault(
            "tokens",
            f"{transcript.n_tokens} tokens of calls and results; {task.max_tokens} are enough",
        )


def sentences(report: str) -> list[str]:
    """Split at the ends of lines, and at full stops that no digit follows."""
    return [sentence for sentence in re.split(r"\n|(?<=[.!?;])\s+", report) if sentence.strip()]
