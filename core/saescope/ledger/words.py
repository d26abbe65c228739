"""What the words of a claim say: how much evidence they need, which feature and which direction
they name. English only; a claim in another language is judged by its fields alone."""

import re
from collections.abc import Mapping

_NEED: Mapping[str, str] = {
    "replicated": r"always|never|in general|generally|universal(?:ly)?|(?:every|all|any) prompts?|"
    r"whatever the prompt|robust(?:ly)?|consistent(?:ly)?|reliab(?:le|ly)|replicat\w+|necessary|"
    r"sufficient|proves?|proven",
    "controlled": r"specific(?:ally)?|beyond (?:chance|controls?)|more than (?:random|chance|"
    r"controls?)|unlike random|significant(?:ly)?",
    "intervened": r"caus(?:e|es|ed|ing|al|ally)|because|due to|driv(?:e|es|en|ing)|drove|"
    r"ma(?:kes?|de|king)|lead(?:s|ing)? to|led to|responsible|determin\w+|controls? (?:the|what|"
    r"whether)|produc(?:e|es|ed|ing)|trigger\w*|induc\w+|mediat\w+|results? in|forc(?:e|es|ed|ing)|"
    r"rais(?:e|es|ed|ing)|increas\w+|boost\w*|promot\w+|lower(?:s|ed|ing)?|decreas\w+|"
    r"reduc(?:e|es|ed|ing)|suppress\w*|inhibit\w*|chang(?:e|es|ed|ing)|writ(?:e|es|ing|ten)|"
    r"wrote|steer\w*|responsib\w+|explains? why|the reason|thanks to|effects? on|influenc\w+",
    "correlates": r"associat\w+|correlat\w+|represents?|encod(?:e|es|ed|ing)|means|stands for|"
    r"detect\w*|predict(?:s|ed)?|track(?:s|ed|ing)?|is (?:a|an|the) [\w' -]{0,40}feature|"
    r"selective\w*",
}
"""Words by the level without which they may not be written, the highest first."""
NEEDED = {level: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for level, words in _NEED.items()}
_FEATURES = re.compile(r"\b(?:feature|latent|neuron)s?\s*(?:no\.?|number|index|#)?\s*#?(\d+)", re.I)
_WITHOUT = re.compile(
    r"\b(?:remov\w+|ablat\w+|without|turn\w* (?:it |this |that )?off|zero\w*|delet\w+|absen\w+|"
    r"silenc\w+|knock\w*|suppressing)\b",
    re.IGNORECASE,
)
_UP = re.compile(
    r"\b(?:rais\w+|increas\w+|boost\w*|promot\w+|(?:more|likelier|more likely)|strengthen\w*)\b",
    re.IGNORECASE,
)
_DOWN = re.compile(
    r"\b(?:lower\w*|decreas\w+|reduc\w+|suppress\w*|inhibit\w*|less likely|unlikelier|weaken\w*|"
    r"drops?|falls?)\b",
    re.IGNORECASE,
)


def words_above(text: str, allowed: int, order: tuple[str, ...]) -> list[tuple[str, str]]:
    """Words of a text that need more than is allowed, each with the level that it needs."""
    return [
        (match[0], level)
        for level, pattern in NEEDED.items()
        if order.index(level) > allowed
        for match in pattern.finditer(text)
    ]


def other_features(text: str, feature: int) -> list[int]:
    """Features that a text names, but for the one that it is about."""
    named = dict.fromkeys(int(match[1]) for match in _FEATURES.finditer(text))
    return [each for each in named if each != feature]


def told_direction(text: str) -> str:
    """What a text says that the feature does: "raises", "lowers", or "" where it does not say.

    What happens without the feature is the opposite of what it does.
    """
    up, down = bool(_UP.search(text)), bool(_DOWN.search(text))
    if up == down:
        return ""
    if _WITHOUT.search(text):
        up = not up
    return "raises" if up else "lowers"
