"""Groups of tools: which of them a server offers, and how the rest is switched on.

scripts/launch.py runs this file before anything is installed: it imports the standard library only.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

SETTING = "SAESCOPE_TOOLS"
_NAMED = re.compile(r"\b([a-z]+(?:_[a-z]+)+|[a-z]+(?=\())")
"""What may be the name of a tool; of a single word only where it is called, else it is a verb."""


class Group(Enum):
    """What the tools of a group are for, and whether a server offers them unless told otherwise."""

    BASE = "find, load and unload SAEs; jobs and the server's status", True
    READ = "which features fire on a text", True
    EXPLAIN = "what a prediction rests on, and what an edit changes", True
    CIRCUITS = "through which features a prediction comes about", True
    STEER = "text generated with features changed", True
    KNOW = "what a feature is: index, cards, search, labels and their tests", True
    TRAIN = "train an SAE", True
    JUDGE = "how good an SAE is", True
    BENCH = "find a strength, compare prompts", False
    PUBLISH = "publish an SAE", False
    RECORD = "earlier results: brought back, checked against a claim, exported as a report", False

    def __init__(self, purpose: str, by_default: bool) -> None:
        self.purpose = purpose
        self.by_default = by_default

    @property
    def word(self) -> str:
        """How the group is called in a setting."""
        return self.name.lower()


@dataclass
class Offer:
    """The tools of one server by group, and those of them that are switched on."""

    groups: Mapping[str, str] = field(default_factory=dict[str, str])
    """The group of each tool. A tool that is not in here is offered while another is off."""
    on: set[str] = field(default_factory=set[str])

    resting: set[str] = field(default_factory=set[str])
    """The tools that are not listed only because nobody asked for their group: a call of one
    switches it on."""

    setting: str = ""
    """What the server was started with."""

    @classmethod
    def chosen(cls, setting: str, groups: Mapping[str, str]) -> "Offer":
        """What a setting such as "read,explain", "default,circuits", "-train" or "top_features"
        offers. The base group is always there unless it is taken away.

        Raises:
            ValueError: a word is neither a group nor a tool.
        """
        words = [word for word in re.split(r"[,\s]+", setting.lower()) if word]
        offer = cls(groups, setting=",".join(words))
        first = "default" if not words or words[0].startswith("-") else Group.BASE.word
        for word in [first, *words]:
            meant = offer.meant_by(word.removeprefix("-"))
            offer.on = offer.on - meant if word.startswith("-") else offer.on | meant
            offer.resting -= meant
            if word == "default":
                offer.resting |= {*groups} - meant
        return offer

    def meant_by(self, word: str) -> set[str]:
        """The tools that a word stands for, in the shell's spelling or the protocol's.

        Raises:
            ValueError: it is neither a group nor a tool.
        """
        word = word.strip().lower().replace("-", "_")
        by_default = {group.word for group in Group if group.by_default}
        match word:
            case "all":
                return set(self.groups)
            case "default":
                return {tool for tool, group in self.groups.items() if group in by_default}
            case _:
                meant = {tool for tool, group in self.groups.items() if word in (group, tool)}
        if not meant:
            raise ValueError(
                f"{word!r} is neither a group nor a tool (groups: {self._words()}; also default, "
                f"all; tools: {', '.join(self.groups)})."
            )
        return meant

    def lists(self, tool: str) -> bool:
        return tool in self.on if tool in self.groups else bool(self.off)

    @property
    def off(self) -> list[str]:
        return [tool for tool in self.groups if tool not in self.on]

    def reached(self, calls: Sequence[str]) -> list[str]:
        """The calls, after the one that switches on what they need."""
        switch = self._switch(call.partition("(")[0] for call in calls)
        return [switch, *calls] if switch else [*calls]

    def reached_by(self, hint: str) -> str:
        """The next step of an error, after the call that switches on the tools that it calls."""
        switch = self._switch(_NAMED.findall(hint))
        return f"First {switch}. {hint}" if switch and switch not in hint else hint

    def reached_in(self, text: str) -> str:
        """A text that names tools, after a sentence that says what switches on what it needs."""
        switch = self._switch(re.findall(r"\w+", text))
        return f"First {switch}: tools named below are switched off.\n{text}" if switch else text

    def _switch(self, names: Iterable[str]) -> str:
        """The call that switches on the groups of those of these tools that are off, if any."""
        off = self.off
        words = dict.fromkeys(f'"{self.groups[name]}"' for name in names if name in off)
        return f"use_tools(groups=[{', '.join(words)}])" if words else ""

    def wake(self, tool: str) -> None:
        """Switch a tool on that is called, if it is off only because nobody asked for its group."""
        if tool in self.resting:
            self.on.add(tool)

    @property
    def groups_on(self) -> list[str]:
        """The groups of which every tool is on."""
        missing = {self.groups[tool] for tool in self.off}
        return [word for word in dict.fromkeys(self.groups.values()) if word not in missing]

    def note(self) -> str:
        """What an agent is told of the tools that it does not see; empty if it sees all."""
        if not self.off:
            return ""
        words = dict.fromkeys(self.groups[tool] for tool in self.off)
        held = [f"{word} ({', '.join(self._off_in(word))})" for word in words]
        return (
            f"Switched off here: {', '.join(held)}. "
            f'Switch on what you need: use_tools(groups=["{next(iter(words))}"]).'
        )

    def _off_in(self, word: str) -> Iterable[str]:
        return (tool for tool in self.off if self.groups[tool] == word)

    def _words(self) -> str:
        return ", ".join(dict.fromkeys(self.groups.values()))
