"""What the words of a claim say: how much evidence they need, what they name beside its fields, and
which direction they tell. English only; a claim in another language is judged by its fields
alone."""

import re
import unicodedata
from collections.abc import Iterable, Mapping

_NEED: Mapping[str, str] = {
    "replicated": r"generally|robust(?:ly)?|consistent(?:ly)?|reliab(?:le|ly)|replicat\w+|"
    r"reproduc\w+|systematic(?:ally)?",
    "controlled": r"specific(?:ally)?|beyond (?:chance|controls?)|more than (?:random|chance|"
    r"controls?)|unlike random|significant(?:ly)?|selectively",
    "intervened": r"caus(?:e|es|ed|ing|al|ally)|because|due to|driv(?:e|es|en|ing)|drove|"
    r"ma(?:kes?|de|king)|lead(?:s|ing)? to|led to|responsib\w+|determin\w+|controls? (?:the|what|"
    r"whether)|produc(?:e|es|ed|ing)|trigger\w*|induc\w+|mediat\w+|results? in|forc(?:e|es|ed|ing)|"
    r"rais(?:e|es|ed|ing)|increas\w+|boost\w*|promot\w+|lower(?:s|ed|ing)?|decreas\w+|"
    r"reduc(?:e|es|ed|ing)|suppress\w*|inhibit\w*|chang(?:e|es|ed|ing)|writ(?:e|es|ing|ten)|"
    r"wrote|steer\w*|explains? why|the reason|is why|thanks to|effects? on|influenc\w+|"
    r"prevent\w*|block(?:s|ed|ing)|amplif\w+|strengthen\w*|weaken\w*|elicit\w*|evok\w+|"
    r"br(?:ing|ings|ought|inging) about|give(?:s|n)? rise|gave rise|govern\w*|dictat\w+|enabl\w+|"
    r"push(?:es|ed|ing)|pull(?:s|ed|ing)|shift(?:s|ed|ing)|affect\w*|impact\w*|contribut\w+|"
    r"yield(?:s|ed|ing)?|generat(?:e|es|ed|ing)|creat(?:e|es|ed|ing)|turn(?:s|ed|ing) \w+ "
    r"(?:on|off|into)|switch(?:es|ed|ing)? \w+ (?:on|off)|(?:more|less) (?:likely|probable)|"
    r"likelier|unlikelier|kill\w*|eliminat\w+|destroy\w*|extinguish\w*",
    "correlates": r"associat\w+|correlat\w+|represents?|encod(?:e|es|ed|ing)|means|stands for|"
    r"detect\w*|predict(?:s|ed)?|track(?:s|ed|ing)?|is (?:a|an|the) [\w' -]{0,40}feature|"
    r"selective",
}
"""Words by the level without which they may not be written, the highest first."""
NEEDED = {level: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for level, words in _NEED.items()}
_ABSOLUTE = re.compile(
    r"\b(?:always|never|in general|universal(?:ly)?|(?:every|all|any) (?:prompts?|texts?|contexts?|"
    r"cases?|(?:\w+ )?(?:languages|words|tokens|models))|(?:every|any) time|everywhere|"
    r"whatever the (?:prompt|text)|without exception|regardless|no matter|"
    r"across (?:all )?(?:contexts|prompts|models|layers)|(?:other|larger|smaller|most|many) models|"
    r"in (?:large )?language models|"
    r"certain(?:ly|ty)|impossible|cannot|needed|the mechanism|(?:it|feature \d+) alone|"
    r"proves?|proven|proof|necessary|sufficient|essential|indispensable|crucial|required|"
    r"guarantee\w*|sole(?:ly)?|exclusive(?:ly)?|unique(?:ly)?|the only|only (?:this|the|feature)|"
    r"(?:fir(?:es?|ing)|activ(?:e|ates?)|respon(?:ds?|sive)) only)\b",
    re.IGNORECASE,
)
"""What no number of tests shows."""
_NAMED = re.compile(
    r"\b(?:feature|latent|neuron)s?\s*(?:no\.?|numbers?|index|indices|#)?\s*"
    r"(#?\d+(?:(?:\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or)\s+|\s*[/&+]\s*)#?\d+)*)",
    re.IGNORECASE,
)
_WITHOUT = re.compile(
    r"\b(?:remov\w+|ablat\w+|without|turn\w* (?:it |this |that )?off|zero\w*|delet\w+|absen\w+|"
    r"silenc\w+|knock\w*|suppressing)\b",
    re.IGNORECASE,
)
_UPWARD = (
    r"rais\w+|increas\w+|boost\w*|promot\w+|more|likelier|strengthen\w*|amplif\w+|"
    r"makes? (?:it |the \w+ )?likely"
)
_DOWNWARD = (
    r"lower\w*|decreas\w+|reduc\w+|suppress\w*|inhibit\w*|less likely|less probable|unlikelier|"
    r"weaken\w*|drops?|falls?|prevent\w*|block(?:s|ed|ing)|kill\w*|eliminat\w+|destroy\w*|"
    r"extinguish\w*"
)
_UP = re.compile(rf"\b(?:{_UPWARD})\b", re.IGNORECASE)
_DOWN = re.compile(rf"\b(?:{_DOWNWARD})\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\bno (?:effect|influence|impact|role)\b|\b(?:does|do|did) nothing\b|"
    r"(?:\b(?:not|never|cannot|hardly|neither|nor|fails? to|failed to|no longer|stops?)|n't)\s+"
    rf"(?:\w+\s+){{0,2}}?(?:{_UPWARD}|{_DOWNWARD}|{_NEED['intervened']}|"
    r"fir(?:e|es|ing)|activ\w+)\b",
    re.IGNORECASE,
)
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_IN_WORDS = re.compile(rf"\b(?:feature|latent|neuron) ({'|'.join(_NUMBERS)})\b", re.IGNORECASE)
_COMPARED = re.compile(
    r"\b(?:differences?|against|over|than|relative to|compared|versus|vs)\b", re.IGNORECASE
)
_PROMPTS = re.compile(
    rf"\b(\d[\d,]*|{'|'.join(_NUMBERS)}|dozens?|hundreds?|thousands?|many) "
    r"(?:of )?(?:\w+ ){0,2}?(?:prompts|contexts)\b",
    re.IGNORECASE,
)
_MANY = {"many": 5, "dozen": 12, "hundred": 100, "thousand": 1000}
_SHARE = re.compile(r"(\d+(?:\.\d+)?) ?(?:%|per ?cent\b)", re.IGNORECASE)
_FACTOR = re.compile(
    r"\b(?:doubl|tripl|quadrupl|halv)(?:es|ed|ing)\b|\b\w+fold\b|"
    r"\b(?:times|twice) (?:as|more|less|likelier)\b|"
    r"\b\d[\d.,]*[- ]?(?:fold|[x\N{MULTIPLICATION SIGN}])(?!\w)|"
    r"\bby (?:a )?half\b|\b(?:a|one|two|three)[ -](?:third|quarter|fifth|tenth)s?\b",
    re.IGNORECASE,
)
_NATS = re.compile(r"([+\N{MINUS SIGN}-]?\d+(?:\.\d+)?) nats?\b", re.IGNORECASE)
_NATS_IN_WORDS = re.compile(
    rf"\b(?:one|{'|'.join(_NUMBERS)}|dozen|hundred|thousand|half a|several|many) nats?\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    r"(?<!\w)'([^'\n]+)'(?!\w)|\"([^\"\n]+)\"|`([^`\n]+)`|\N{LEFT DOUBLE QUOTATION MARK}([^\n]+?)"
    r"\N{RIGHT DOUBLE QUOTATION MARK}|\N{LEFT SINGLE QUOTATION MARK}([^\n]+?)"
    r"\N{RIGHT SINGLE QUOTATION MARK}(?!\w)|\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}([^\n]+?)"
    r"\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}"
)
_LAYER = re.compile(
    r"\b(?:layer|block)s?[-.\s]*(?:no\.?|number|#)?\s*"
    r"(\d+(?:(?:\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or|to)\s+|\s*[/&-]\s*)\d+)*)"
    r"|\b(\d+)(?:st|nd|rd|th) (?:layer|block)\b",
    re.IGNORECASE,
)
_LOGIT = re.compile(r"\blogits?\b", re.IGNORECASE)
_CHANCE = re.compile(r"prob|likel", re.IGNORECASE)


def plain(text: str) -> str:
    """The text with compatible characters as one of them."""
    return unicodedata.normalize("NFKC", text)


def words_above(text: str, allowed: int, order: tuple[str, ...]) -> list[tuple[str, str]]:
    """Words of a text that need more than is allowed, each with the level that it needs."""
    return [
        (match[0], level)
        for level, pattern in NEEDED.items()
        if order.index(level) > allowed
        for match in pattern.finditer(text)
    ]


def absolute_words(text: str) -> list[str]:
    """Words that say more than any number of tests."""
    return [*dict.fromkeys(match[0] for match in _ABSOLUTE.finditer(text))]


def other_features(text: str, feature: int) -> list[int]:
    """Features that a text names, but for the one that it is about."""
    named = [int(n) for match in _NAMED.finditer(text) for n in re.findall(r"\d+", match[1])]
    named += [_number(match[1].lower()) for match in _IN_WORDS.finditer(text)]
    return [each for each in dict.fromkeys(named) if each != feature]


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


def compares(text: str) -> bool:
    """Whether a text sets one thing against another."""
    return bool(_COMPARED.search(text))


def denied(text: str) -> str:
    """The words with which a text denies an effect or that it fires; empty where it does not."""
    found = _DENIED.search(text)
    return found[0] if found else ""


def quoted(text: str) -> list[str]:
    """What stands in quotation marks."""
    return [next(filter(None, match.groups())) for match in _QUOTED.finditer(text)]


def layers_named(text: str) -> list[int]:
    """The layers that a text names."""
    return [
        int(n) for match in _LAYER.finditer(text) for n in re.findall(r"\d+", match[1] or match[2])
    ]


def prompts_told(text: str) -> int:
    """The largest number of prompts that a text names; 0 where it names none."""
    found = [match[1].lower().replace(",", "") for match in _PROMPTS.finditer(text)]
    return max(map(_number, found), default=0)


def _number(word: str) -> int:
    if word in _NUMBERS:
        return _NUMBERS.index(word) + 2
    return _MANY.get(word.rstrip("s")) or int(word)


def nats_told(text: str) -> list[str]:
    """The sizes in nats that a text names, as they are written."""
    return [match[1] for match in _NATS.finditer(text)]


def nats_in_words(text: str) -> list[str]:
    """Sizes in nats that are told without a number."""
    return [match[0] for match in _NATS_IN_WORDS.finditer(text)]


def shares_told(text: str) -> list[str]:
    """The percentages that a text names, without their sign."""
    return [match[1] for match in _SHARE.finditer(text)]


def factors_told(text: str) -> list[str]:
    """Words that tell a size as a factor."""
    return [match[0] for match in _FACTOR.finditer(text)]


def is_of_size(told: str, sizes: Iterable[float]) -> bool:
    """Whether a number is one of these sizes as far as it is written, without its sign."""
    number = told.lstrip("+-\N{MINUS SIGN}")
    half = 0.5 * 10.0 ** -len(number.partition(".")[2])
    return any(abs(abs(size) - float(number)) <= half + 1e-3 * abs(size) for size in sizes)


def without_places(text: str) -> str:
    """A text without the numbers that say of which feature, layer and prompts it is, and without
    its nats and shares."""
    for each in (_NAMED, _LAYER, _PROMPTS, _NATS, _SHARE):
        text = each.sub(" ", text)
    return text


def is_of_logits(text: str) -> bool:
    """Whether a text is about a logit, not about a probability."""
    return bool(_LOGIT.search(text)) and not _CHANCE.search(text)
