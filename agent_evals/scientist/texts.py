"""Texts of the planted worlds: frames of function words, with words of a made-up topic set in."""

from pathlib import Path
from random import Random

from agent_evals.scientist.wish import Examples

WORDS = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split()
"""Each is one token of the small model, with the space before it; none stands in a frame."""
FRAMES = (
    "There was a {} and a {} , and then it was the {} that they had .",
    "It was all {} and {} to her , but not the {} at all .",
    "And so with the {} , or the {} , and with that {} too .",
    "She had the {} and he had a {} , but they had no {} .",
    "If it is {} , then what is {} , and who is {} ?",
    "They were so {} and so {} that all of them were {} .",
    "He would not be {} , for he was {} and very {} .",
    "What of the {} , and of the {} , and of that {} ?",
)
BEGINNINGS = (
    "There was a {} and it was",
    "She was so {} that she",
    "And then the {} was in the",
    "It was not the {} but the",
    "They had a {} , and with it they",
    "He would be {} if he had a",
    "What was the {} for ? It was",
    "But if the {} is so , then",
)


def filled(rng: Random, words: list[str]) -> str:
    """A frame with three different words."""
    return rng.choice(FRAMES).format(*rng.sample(words, 3))


def beginnings(rng: Random, words: list[str], n: int) -> list[str]:
    """Different prompts without any word of a topic."""
    every = [frame.format(word) for frame in BEGINNINGS for word in words]
    return rng.sample(every, n)


def examples(
    rng: Random, topic: list[str], beside: list[list[str]], plain: list[str], n: int = 12
) -> Examples:
    """Texts of a topic, of the topics next to it in turn, and of no topic; the first holds one word
    of no topic besides two of its own."""
    positives = [filled(rng, topic) for _ in range(n)]
    positives[0] = rng.choice(FRAMES).format(*rng.sample(topic, 2), rng.choice(plain))
    hard = [filled(rng, beside[i % len(beside)]) for i in range(n)]
    return Examples(positives, hard, [filled(rng, plain) for _ in range(n)])
