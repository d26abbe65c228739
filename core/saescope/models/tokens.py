"""Text as tokens: BOS by one stated rule, chat templates, and which positions count."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.errors import ArgumentError, ModelError, cause_of
from saescope.models.bounded import bounded_template

_STAND_IN = "saescope-stands-here"
"""Rendered in the prompt's place to see where a chat template puts it: a short prompt may also
occur in the template itself."""

_PROBES = ("a", "The old man went to the sea in 1984.\n", "na\u00efve \u65e5\u672c \U0001f642")


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as the model gets it."""

    ids: Int[Tensor, " n_pos"]
    special: Bool[Tensor, " n_pos"]
    """The tokenizer's special tokens, and whatever a chat template put around the prompt."""
    strings: tuple[str, ...]
    bos_prepended: bool

    def __len__(self) -> int:
        return len(self.ids)


def first_of_each(texts: Sequence[Tokens]) -> list[int]:
    """The places of texts that are not the same, token by token, as an earlier one."""
    places: dict[tuple[int, ...], int] = {}
    for place, tokens in enumerate(texts):
        places.setdefault(tuple(tokens.ids.tolist()), place)
    return [*places.values()]


class Tokenizer:
    """A Hugging Face tokenizer that never adds a token on its own."""

    def __init__(self, hf: Any, n_ctx: int, n_embedded: int) -> None:
        self.hf = hf
        self.n_ctx = n_ctx
        self.n_embedded = n_embedded
        """Rows of the model's embedding: a token added to the tokenizer alone may lie beyond."""
        self.bos_id: int | None = hf.bos_token_id
        self.eos_id: int | None = hf.eos_token_id
        self.special_ids = torch.tensor(sorted(_special_ids(hf)), dtype=torch.long)
        self.adds_bos = self.bos_id is not None and list(hf("a").input_ids)[:1] == [self.bos_id]
        self.warnings = (*self._misfit(), *self._left_out())
        """What is wrong between tokenizer and model, and does not matter to every text."""

    def tokenize(
        self, text: str, *, prepend_bos: bool | None, chat: bool, limit: int | None = None
    ) -> Tokens:
        """The first `limit` tokens of `text`; BOS comes first if `prepend_bos`, or if None, where
        the tokenizer itself would add it.

        Raises:
            ArgumentError: the text is empty, longer than the context, has a token that the model
                does not, or `chat` is asked of a model without a template that works.
        """
        if not text:
            raise _empty("The text is empty.", "Give at least one character.")
        ids, outside = (
            self._chat(text) if chat else (self._plain(text), torch.zeros(0, dtype=torch.bool))
        )
        if not ids:
            raise _empty("The model's tokenizer makes no token of the text.", "Give another text.")
        wanted = self.adds_bos if prepend_bos is None else prepend_bos
        bos = (
            [self.bos_id]
            if wanted and not chat and self.bos_id is not None and ids[:1] != [self.bos_id]
            else []
        )
        ids = [*bos, *ids][:limit]
        if len(ids) > self.n_ctx:
            raise ArgumentError(
                f"The text has {len(ids)} tokens, the model's context has {self.n_ctx}.",
                code="PROMPT_TOO_LONG",
                field="text",
                got=len(ids),
                allowed=self.n_ctx,
                hint="Shorten the text.",
            )
        self.require_embedded(ids)
        tensor = torch.tensor(ids, dtype=torch.long)
        special = torch.isin(tensor, self.special_ids)
        return Tokens(
            tensor,
            special | outside if chat else special,
            tuple(self.text(i) for i in ids),
            bool(bos),
        )

    def text(self, token_id: int) -> str:
        """Decode one token, its leading space kept."""
        text: str = self.hf.decode([token_id], clean_up_tokenization_spaces=False)
        piece = self.hf.convert_ids_to_tokens(token_id)
        return f" {text}" if str(piece).startswith("▁") and not text.startswith(" ") else text

    def plain_ids(self, text: str) -> list[int]:
        """The ids of a text alone, without BOS.

        Raises:
            ArgumentError: TOKENIZER_FAILED.
        """
        return self._plain(text)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The characters of the text that each of its `plain_ids` stands for: the first, and one
        after the last.

        Raises:
            ArgumentError: NO_OFFSETS: this kind of tokenizer does not tell.
        """
        if not self.hf.is_fast:
            raise ArgumentError(
                "This model's tokenizer does not say where in the text its tokens stand.",
                code="NO_OFFSETS",
                field="pattern",
                hint="Call again without pattern.",
            )
        encoded = self.hf(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return [(start, end) for start, end in encoded.offset_mapping]

    def join(self, ids: Iterable[int]) -> str:
        return self.hf.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def single(self, text: str, d_vocab: int, field: str) -> int:
        """The id of a text that is exactly one token, or of "#id".

        Raises:
            ArgumentError: it is several tokens, which the message lists, or no id of this
                vocabulary.
        """
        if text.startswith("#") and text[1:].isdecimal():
            if int(text[1:]) >= d_vocab:
                raise ArgumentError(
                    f"Token id {text} is outside the vocabulary.",
                    code="TOKEN_OUT_OF_RANGE",
                    field=field,
                    got=text,
                    allowed=f"#0..#{d_vocab - 1}",
                )
            return int(text[1:])
        ids = self._plain(text) if text else []
        pieces = [text, f"▁{text[1:]}"] if text.startswith(" ") else [text]
        candidates = [
            *(ids if len(ids) == 1 else []),
            *(self.hf.convert_tokens_to_ids(piece) for piece in pieces if piece),
        ]
        exact = [i for i in candidates if i is not None and self.text(i) == text]
        if exact:
            if exact[0] >= d_vocab:
                raise self._beyond(exact[0], field)
            return exact[0]
        raise ArgumentError(
            self._not_one(text, ids),
            code="NOT_ONE_TOKEN",
            field=field,
            got=text,
            allowed="text that is exactly one token, leading space kept, or #id",
            hint=f"Take its first token, {_given_as(field, ids[0])}, and say so."
            if ids
            else "Give a token.",
        )

    def _not_one(self, text: str, ids: list[int]) -> str:
        listed = ", ".join(f"{self.text(i)!r} (#{i})" for i in ids[:8])
        if not ids:
            return f"{text!r} is no token of this model."
        if len(ids) == 1:
            return (
                f"{text!r} is no token of this model: its tokenizer makes {listed} of it, "
                "another text."
            )
        return f"{text!r} is not one token of this model but {len(ids)}: {listed}."

    def _plain(self, text: str) -> list[int]:
        try:
            return list(self.hf(text, add_special_tokens=False).input_ids)
        except Exception as error:
            if type(error) is not Exception:
                raise
            raise ArgumentError(  # tokenizers raises nothing more exact
                f"The model's tokenizer fails on the text: {cause_of(error)}",
                code="TOKENIZER_FAILED",
                field="text",
                got=text[:40],
                hint="Give another text, or get the model's tokenizer.json again.",
            ) from error

    def _chat(self, text: str) -> tuple[list[int], Bool[Tensor, " n_pos"]]:
        if not self.hf.chat_template or not self.hf.is_fast:
            raise ArgumentError(
                "This model has no chat template.",
                code="NO_CHAT_TEMPLATE",
                field="chat",
                got=True,
                allowed=False,
                hint="Leave chat out.",
            )
        rendered = self._render(text)
        start, shown = self._shown(text)
        if start < 0 or not shown or not rendered.startswith(shown, start):
            raise ArgumentError(
                "The chat template changes the text, so its tokens cannot be told from "
                "the template's."
                if shown
                else "The chat template leaves nothing of a text of white space.",
                code="NO_CHAT_TEMPLATE" if shown else "EMPTY_PROMPT",
                field="chat",
                got=True,
                allowed=False,
                hint="Leave chat out, or write the turns into the text yourself.",
            )
        encoded = self.hf(rendered, add_special_tokens=False, return_offsets_mapping=True)
        end = start + len(shown)
        outside = [not (a < end and b > start and b > a) for a, b in encoded.offset_mapping]
        return list(encoded.input_ids), torch.tensor(outside)

    def _shown(self, text: str) -> tuple[int, str]:
        """Find where the template puts a message, and what it leaves of `text`: some templates trim
        white space at its ends."""
        body = text.strip()
        lead, trail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        trail = trail if body else ""
        bare, edged = self._render(_STAND_IN), self._render(f"{lead}{_STAND_IN}{trail}")
        start = bare.find(_STAND_IN)
        n_lead = edged.find(_STAND_IN) - start
        n_trail = len(edged) - len(bare) - n_lead
        return start, lead[len(lead) - n_lead :] + body + trail[:n_trail]

    def _render(self, text: str) -> str:
        from jinja2 import TemplateError

        failures = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError)
        failures += (AssertionError, MemoryError, SyntaxError)  # it becomes a Python module
        try:
            with bounded_template():
                rendered: str = self.hf.apply_chat_template(
                    [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
                )
            rendered.encode()  # half of a surrogate pair is no text for a tokenizer
            return rendered
        except (*failures, ValueError, RuntimeError) as error:
            raise ArgumentError(
                f"The model's chat template fails on one message of the user: {cause_of(error)}",
                code="CHAT_TEMPLATE_FAILED",
                field="chat",
                got=True,
                allowed=False,
                hint="Leave chat out, or write the turns into the text yourself.",
            ) from error

    def require_embedded(self, ids: Sequence[int]) -> None:
        """Raise ArgumentError where a token is beyond the model's embedding."""
        if max(ids, default=0) >= self.n_embedded:
            raise self._beyond(next(i for i in ids if i >= self.n_embedded))

    def _beyond(self, token_id: int, field: str = "text") -> ArgumentError:
        token = f"{self.text(token_id)!r} (#{token_id})"
        return ArgumentError(
            f"The tokenizer's token {token} is beyond the model's embedding, which has "
            f"{self.n_embedded} rows.",
            code="TOKEN_OUT_OF_RANGE",
            field=field,
            got=f"#{token_id}",
            allowed=f"#0..#{self.n_embedded - 1}",
            hint="Leave it out of the text, or load the model with its own tokenizer.",
        )

    def _left_out(self) -> tuple[str, ...]:
        """A warning where the tokenizer by itself adds more than a BOS."""
        before, behind = _around(self.hf)
        lost = before[1:] if self.adds_bos else before
        added = [
            f"{', '.join(f'{self.text(i)!r} (#{i})' for i in ids)} {where} it"
            for ids, where in ((lost, "before"), (behind, "behind"))
            if ids
        ]
        if not added:
            return ()
        return (
            f"The model's own tokenizer puts more around a text than a BOS: {' and '.join(added)}. "
            "saescope leaves these tokens out; write them into the text where they matter.",
        )

    def _misfit(self) -> tuple[str, ...]:
        beyond = sorted(i for i in self.hf.get_vocab().values() if i >= self.n_embedded)
        if not beyond:
            return ()
        few = f"{len(beyond)} tokens, first {self.text(beyond[0])!r} (#{beyond[0]}),"
        return (
            f"The tokenizer has {few} beyond the model's embedding of "
            f"{self.n_embedded} rows: it may be another model's. "
            "Texts that have such a token are refused.",
        )


def _around(hf: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer by itself puts before and behind the tokens of a text."""
    whole, inner = (list(hf("a", add_special_tokens=adds).input_ids) for adds in (True, False))
    starts = range(len(whole) - len(inner) + 1)
    start = next((i for i in starts if whole[i : i + len(inner)] == inner), None)
    return ([], []) if start is None else (whole[:start], whole[start + len(inner) :])


def counted(
    tokens: Tokens,
    positions: Iterable[int] = (),
    include_special: bool = False,
    *,
    sinks: Bool[Tensor, " n_pos"] | None = None,
) -> Bool[Tensor, " n_pos"]:
    """Which positions enter aggregates, lists and edits: all but position 0, special tokens and
    `sinks`, or just those named.

    Raises:
        ArgumentError: a position is outside the text.
    """
    named, n = list(positions), len(tokens)
    wrong = [p for p in named if not -n <= p < n]
    if wrong:
        raise ArgumentError(
            f"Position {wrong[0]} is outside the {n} tokens of the text.",
            code="POSITION_OUT_OF_RANGE",
            field="positions",
            got=wrong[0],
            allowed=f"{-n}..{n - 1}",
        )
    if named:
        mask = torch.zeros(n, dtype=torch.bool)
        mask[named] = True
        return mask
    if include_special:
        return torch.ones(n, dtype=torch.bool)
    mask = ~tokens.special
    mask[0] = False
    return mask if sinks is None else mask & ~sinks.to(mask.device)


def check_tokenizer(hf: Any) -> None:
    """That it has tokens for text, and fails on none of a few.

    Raises:
        ModelError: FILE_CORRUPT: it has none but special ones. Whatever else its library raises is
            raised here, at the load.
    """
    if set(hf.get_vocab().values()) <= _special_ids(hf):
        raise ModelError(
            "The model's tokenizer has no tokens but special ones: its vocabulary is missing.",
            code="FILE_CORRUPT",
            field="model",
            hint="Get tokenizer.json of the model again.",
        )
    for text in _PROBES:
        hf.decode(hf(text, add_special_tokens=False).input_ids)


def _empty(message: str, hint: str) -> ArgumentError:
    return ArgumentError(message, code="EMPTY_PROMPT", field="text", hint=hint)


def _given_as(field: str, token_id: int) -> str:
    """The argument `field` that says it by its id; those called tokens are lists."""
    return f'{field}=["#{token_id}"]' if field.endswith("tokens") else f'{field}="#{token_id}"'


def _special_ids(hf: Any) -> set[int]:
    """Ids of the named special tokens, and of those that stand as special in tokenizer.json or
    tokenizer_config.json alone."""
    added = hf.added_tokens_decoder
    named = (i for i in hf.all_special_ids if i is not None)
    return {*named, *(i for i, token in added.items() if token.special)}
