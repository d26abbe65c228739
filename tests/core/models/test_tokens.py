"""Text as tokens against the plain tokenizer of the same folder."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from threading import Event, Timer
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from saescope.activations.tokens import ContextConfig, Packer
from saescope.cancel import cancellable
from saescope.errors import ArgumentError, Cancelled, ModelError
from saescope.models import LanguageModel, counted, load_model

WithTemplate = Callable[[str], LanguageModel]
TEXT = "The old man saw the little house by the sea."
BOS, EOS = 2, 3
TEMPLATE = (
    "{{ bos_token }}system: you are good.{% for m in messages %}{{ '\\n' + m['role'] "
    "}}: {{ m['content'] | trim }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\nassistant:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def plain(glass_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(glass_dir)


@pytest.fixture(scope="module")
def chatty(glass_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """The same model with a chat template."""
    folder = Path(copytree(glass_dir, tmp_path_factory.mktemp("chatty") / "model"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def adds_bos(glass_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """The same model with a tokenizer that puts BOS first by itself."""
    return adding(glass_dir, tmp_path_factory.mktemp("bos") / "model", ["<bos>", "A"])


def adding(glass_dir: Path, folder: Path, pattern: list[str]) -> LanguageModel:
    """The same model with a tokenizer that makes a text, A, to such a row."""
    copytree(glass_dir, folder)
    said = json.loads((folder / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in said["added_tokens"]}
    said["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"Sequence" if each == "A" else "SpecialToken": {"id": each, "type_id": 0}}
            for each in pattern
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            each: {"id": each, "ids": [ids[each]], "tokens": [each]}
            for each in pattern
            if each != "A"
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(said))
    return load_model(folder, device="cpu")


def error(code: str, model: LanguageModel, text: str, **options: Any) -> ArgumentError:
    with pytest.raises(ArgumentError) as caught:
        model.tokenize(text, **options)
    assert caught.value.code == code
    return caught.value


def test_ids_are_the_plain_tokenizers_and_the_strings_join_to_the_text(
    glass: LanguageModel, plain: Any
) -> None:
    tokens = glass.tokenize(TEXT)
    assert tokens.ids.tolist() == plain(TEXT, add_special_tokens=False).input_ids
    assert "".join(tokens.strings) == TEXT and tokens.strings[1] == " old"
    assert len(tokens) == len(tokens.ids) and not tokens.special.any()


@pytest.mark.parametrize(("prepend_bos", "expected"), [(None, False), (True, True), (False, False)])
def test_bos_comes_first_when_asked_and_by_default_as_the_tokenizer_does(
    glass: LanguageModel, prepend_bos: Any, expected: bool
) -> None:
    tokens = glass.tokenize(TEXT, prepend_bos=prepend_bos)
    assert tokens.bos_prepended is expected and (tokens.ids[0] == BOS) == expected
    assert tokens.special.tolist() == [expected, *[False] * (len(tokens) - 1)][: len(tokens)]


@pytest.mark.parametrize(("prepend_bos", "expected"), [(None, True), (True, True), (False, False)])
def test_a_tokenizer_that_adds_bos_never_adds_two(
    adds_bos: LanguageModel, prepend_bos: Any, expected: bool
) -> None:
    tokens = adds_bos.tokenize(TEXT, prepend_bos=prepend_bos)
    assert tokens.bos_prepended is expected and (tokens.ids == BOS).sum() == int(expected)


def test_a_bos_written_in_the_text_is_not_doubled(glass: LanguageModel) -> None:
    tokens = glass.tokenize("<bos>The sea", prepend_bos=True)
    assert tokens.ids.tolist()[0] == BOS and (tokens.ids == BOS).sum() == 1
    assert tokens.special.tolist()[0] and not tokens.bos_prepended


def test_special_tokens_in_the_middle_are_marked(glass: LanguageModel) -> None:
    tokens = glass.tokenize("The sea<eos>The house")
    assert tokens.ids[tokens.special].tolist() == [EOS]


@pytest.mark.parametrize(
    "text", ["Where is the sea?", "assistant", "a", "s", "system", "you are good."]
)
def test_in_chat_all_but_the_users_own_words_is_special(chatty: LanguageModel, text: str) -> None:
    tokens = chatty.tokenize(text, chat=True)
    rendered = f"<bos>system: you are good.\nuser: {text}\nassistant:"
    assert "".join(tokens.strings) == rendered and not tokens.bos_prepended
    users = [i for i, special in enumerate(tokens.special.tolist()) if not special]
    before = "".join(tokens.strings[: users[0]])
    said = "".join(tokens.strings[users[0] : users[-1] + 1])
    assert users == list(range(users[0], users[-1] + 1))
    assert (
        before in ("<bos>system: you are good.\nuser: ", "<bos>system: you are good.\nuser:")
        and said.strip() == text
    )


def test_chat_without_a_template_is_refused(glass: LanguageModel) -> None:
    assert "chat" in error("NO_CHAT_TEMPLATE", glass, TEXT, chat=True).hint


@pytest.mark.parametrize("chat", [False, True])
def test_an_empty_text_is_refused(chatty: LanguageModel, chat: bool) -> None:
    error("EMPTY_PROMPT", chatty, "", chat=chat)


def test_a_text_longer_than_the_context_is_refused_and_its_length_said(
    glass: LanguageModel,
) -> None:
    caught = error("PROMPT_TOO_LONG", glass, TEXT * 20, prepend_bos=True)
    assert int(caught.got) > 128 and caught.allowed == "128"
    assert len(glass.tokenize(TEXT * 20, prepend_bos=True, limit=128)) == 128


def test_a_text_of_exactly_the_context_is_taken(glass: LanguageModel) -> None:
    limited = glass.tokenize(TEXT * 20, limit=128)
    assert len(limited) == glass.n_ctx == 128
    assert (
        limited.ids.tolist()
        == glass.tokenizer.hf(TEXT * 20, add_special_tokens=False).input_ids[:128]
    )


@pytest.mark.parametrize("text", [" the", " old", "The", ".", "s"])
def test_a_single_token_is_found_with_its_leading_space(
    glass: LanguageModel, plain: Any, text: str
) -> None:
    found = glass.single_token(text)
    assert glass.token_text(found) == text
    in_context = plain(f"sea{text}", add_special_tokens=False).input_ids[-1]
    assert found == in_context or not text.startswith(" ")


def test_every_token_of_a_text_is_found_by_its_own_string(glass: LanguageModel) -> None:
    tokens = glass.tokenize(TEXT)
    assert [glass.single_token(text) for text in tokens.strings] == tokens.ids.tolist()


def test_a_hash_names_an_id(glass: LanguageModel) -> None:
    assert glass.single_token("#0") == 0 and glass.single_token("#1023") == 1023


@pytest.mark.parametrize("text", ["#1024", "#99999999999999999999"])
def test_an_id_outside_the_vocabulary_is_refused(glass: LanguageModel, text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        glass.single_token(text)
    assert caught.value.code == "TOKEN_OUT_OF_RANGE" and caught.value.allowed == "#0..#1023"


@pytest.mark.parametrize("text", [" the old", "lighthouse", "", "#", "#-1", "#²", "  "])
def test_what_is_not_one_token_is_refused_with_its_tokens(
    glass: LanguageModel, plain: Any, text: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        glass.single_token(text)
    assert caught.value.code == "NOT_ONE_TOKEN" and caught.value.got == text
    for token_id in plain(text, add_special_tokens=False).input_ids:
        assert f"{glass.token_text(token_id)!r} (#{token_id})" in caught.value.message


@pytest.mark.parametrize(
    ("field", "call"), [("target", 'target="#{}"'), ("tokens", 'tokens=["#{}"]')]
)
def test_the_way_on_from_many_tokens_is_an_argument_as_it_is_typed(
    glass: LanguageModel, plain: Any, field: str, call: str
) -> None:
    first = plain("lighthouse", add_special_tokens=False).input_ids[0]
    with pytest.raises(ArgumentError) as caught:
        glass.single_token("lighthouse", field)
    assert call.format(first) in caught.value.hint


@pytest.mark.parametrize(
    ("positions", "include_special", "expected"),
    [
        ((), False, [False, True, True, False, True]),
        ((), True, [True] * 5),
        ((0,), False, [True, False, False, False, False]),
        ((-1, 3), False, [False, False, False, True, True]),
        ((-5,), False, [True, False, False, False, False]),
    ],
)
def test_position_0_and_special_tokens_count_only_when_named(
    glass: LanguageModel, positions: tuple[int, ...], include_special: bool, expected: list[bool]
) -> None:
    tokens = glass.tokenize("The old man<eos>.")
    assert len(tokens) == 5 and counted(tokens, positions, include_special).tolist() == expected


@pytest.mark.parametrize("position", [5, -6])
def test_a_position_outside_the_text_is_refused(glass: LanguageModel, position: int) -> None:
    with pytest.raises(ArgumentError) as caught:
        counted(glass.tokenize("The old man<eos>."), [1, position])
    assert (
        caught.value.code == "POSITION_OUT_OF_RANGE"
        and caught.value.got == str(position)
        and caught.value.allowed == "-5..4"
    )


@pytest.mark.model
@pytest.mark.slow
def test_the_embedded_models_template_and_bos(smollm: LanguageModel) -> None:
    chat, text = smollm.tokenize("Where is Paris?", chat=True), smollm.tokenize("Where is Paris?")
    assert chat.ids[~chat.special].tolist() == text.ids.tolist() and not text.bos_prepended
    assert chat.strings[0] == "<|im_start|>" and "".join(chat.strings).endswith(
        "<|im_start|>assistant\n"
    )
    assert smollm.token_text(smollm.single_token(" Paris")) == " Paris"
    assert torch.equal(
        smollm.tokenize("Where", prepend_bos=True).special, torch.tensor([True, False])
    )


@pytest.fixture(scope="module")
def with_template(glass_dir: Path) -> WithTemplate:
    """The model with another chat template: it is read anew for each message."""
    model = load_model(glass_dir, device="cpu")

    def give(template: str) -> LanguageModel:
        model.tokenizer.hf.chat_template = template  # type: ignore[attr-defined]
        return model

    return give


KEEPS = "<bos>user:{% for m in messages %}{{ m['content'] }}{% endfor %}{{ '\\n' }}assistant:"
TRIMS = KEEPS.replace("m['content']", "m['content'] | trim")


@pytest.mark.parametrize(
    "text", [" Where?", "\n\n Where?", "Where? ", "Where?\n", " a ", "  sea\n"]
)
@pytest.mark.parametrize("template", [KEEPS, TRIMS])
def test_white_space_at_the_ends_of_a_message_is_the_users_unless_the_template_trims_it(
    with_template: WithTemplate, text: str, template: str
) -> None:
    model = with_template(template)
    shown = text.strip() if template == TRIMS else text
    rendered = f"<bos>user:{shown}\nassistant:"
    encoded = model.tokenizer.hf(  # type: ignore[attr-defined]
        rendered, add_special_tokens=False, return_offsets_mapping=True
    )
    tokens = model.tokenize(text, chat=True)
    start = len("<bos>user:")
    users = [a < start + len(shown) and b > start for a, b in encoded.offset_mapping]
    assert tokens.ids.tolist() == encoded.input_ids
    assert (~tokens.special).tolist() == users and any(users)


def test_a_message_of_white_space_that_the_template_trims_is_empty(chatty: LanguageModel) -> None:
    error("EMPTY_PROMPT", chatty, " \n", chat=True)


BROKEN = {
    "raises": "{{ raise_exception('roles must alternate') }}",
    "does not parse": "{% for m in messages %}{{ m",
    "an unknown name": "{{ nobody.nothing }}",
    "an unknown filter": "{{ messages | nothing }}",
    "adds text to a number": "{{ 1 + messages[0]['content'] }}",
    "divides by zero": "{{ 1 / 0 }}",
    "a message that is not there": "{{ messages[3]['content'] + 'a' }}",
    "the sandbox": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a loop left outside of one": "{{ messages[0]['content'] }}{% break %}",
    "more loops than Python nests": "".join(f"{{% for i{i} in [1] %}}" for i in range(25))
    + "x"
    + "{% endfor %}" * 25,
    "half of an emoji": "{{ messages[0]['content'] }}{{ '\\ud83d' }}",
    "more than fits in memory": "{{ 'a' * 10**16 }}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_template_that_fails_is_an_error_with_its_cause(
    with_template: WithTemplate, fault: str
) -> None:
    model = with_template(BROKEN[fault])
    caught = error("CHAT_TEMPLATE_FAILED", model, TEXT, chat=True)
    assert caught.field == "chat" and "Leave chat out" in caught.hint
    assert len(caught.message) < 400
    if fault == "raises":
        assert "roles must alternate" in caught.message
    assert len(model.tokenize(TEXT)) > 5  # text without the template works as before


def test_a_template_that_computes_without_end_can_be_cancelled(
    with_template: WithTemplate,
) -> None:
    model, stop = with_template(BROKEN["loops in loops"]), Event()
    before, timer = sys.gettrace(), Timer(0.2, stop.set)
    timer.start()
    with pytest.raises(Cancelled), cancellable(stop):
        model.tokenize(TEXT, chat=True)
    assert sys.gettrace() is before


HUGE = (
    "{{ 9 ** (9 ** 9) }}",
    "{{ (messages[0].content * 9 ** 9)[:5] }}",
    "{% set n = 99999 %}{{ ([1] * (n * n)) | length }}",
    "{{ 'x'.center(10 ** 9) }}",
    "{{ '%0999999999d' % 1 }}",
    "{{ '{:>999999999}'.format(1) }}",
)


@pytest.mark.parametrize("template", HUGE)
def test_a_template_whose_one_step_makes_something_huge_is_refused(
    template: str, with_template: WithTemplate
) -> None:
    model = with_template(template)
    started = time.process_time()
    error("CHAT_TEMPLATE_FAILED", model, TEXT, chat=True)
    assert time.process_time() - started < 1.0


def test_a_template_that_drops_the_message_is_refused(with_template: WithTemplate) -> None:
    model = with_template("<bos>hello")
    error("NO_CHAT_TEMPLATE", model, TEXT, chat=True)


def with_turn_token(
    glass_dir: Path, folder: Path, *, in_json: bool, said: dict[str, Any], rows: int
) -> LanguageModel:
    """The model with a token <|turn|> of id 1024, and an embedding of so many rows."""
    copytree(glass_dir, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer["added_tokens"].append(
        {"id": 1024, "content": "<|turn|>", **shape, "special": in_json}
    )
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text()) | said
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            old = tensors[name]
            tensors[name] = torch.cat([old, old[: rows - len(old)]]) if rows > len(old) else old
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return load_model(folder, device="cpu")


TURN = {"content": "<|turn|>", "special": True, "normalized": False, "lstrip": False}
PLACES: dict[str, tuple[bool, dict[str, Any]]] = {
    "tokenizer.json alone": (True, {}),
    "tokenizer.json, class unknown": (True, {"tokenizer_class": "NobodyTokenizer"}),
    "tokenizer_config.json": (
        False,
        {"added_tokens_decoder": {"1024": TURN | {"rstrip": False, "single_word": False}}},
    ),
    "a list": (False, {"additional_special_tokens": ["<|turn|>"]}),
    "a named one": (False, {"extra_special_tokens": {"turn_token": "<|turn|>"}}),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_special_token_is_special_wherever_it_stands(
    glass_dir: Path, tmp_path: Path, place: str
) -> None:
    in_json, said = PLACES[place]
    model = with_turn_token(glass_dir, tmp_path / "model", in_json=in_json, said=said, rows=1040)
    tokens = model.tokenize("The sea<|turn|>The house", prepend_bos=False)
    assert tokens.ids[tokens.special].tolist() == [1024]
    assert not counted(tokens)[tokens.ids == 1024].any()
    assert 1024 in model.tokenizer.special_ids.tolist()


def test_an_added_token_that_is_not_special_is_text(glass_dir: Path, tmp_path: Path) -> None:
    model = with_turn_token(glass_dir, tmp_path / "model", in_json=False, said={}, rows=1040)
    assert not model.tokenize("The sea<|turn|>", prepend_bos=False).special.any()


def test_a_token_beyond_the_embedding_is_refused_and_named(glass_dir: Path, tmp_path: Path) -> None:
    model = with_turn_token(glass_dir, tmp_path / "model", in_json=True, said={}, rows=1024)
    caught = error("TOKEN_OUT_OF_RANGE", model, "The sea<|turn|>")
    assert "<|turn|>" in caught.message and caught.got == "#1024"
    assert caught.allowed == "#0..#1023"
    assert len(model.tokenize("The sea")) > 1


def test_a_tokenizer_of_another_model_is_said_at_the_load(glass_dir: Path, tmp_path: Path) -> None:
    """1,024 tokens, and an embedding that was cut to 300 rows."""
    folder = tmp_path / "model"
    copytree(glass_dir, folder)
    tensors = load_file(folder / "model.safetensors")
    shortened = {
        name: tensor[:300].clone() if tensor.shape[0] == 1024 else tensor
        for name, tensor in tensors.items()
    }
    save_file(shortened, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    model = load_model(folder, device="cpu")
    assert "724 tokens" in model.warnings[0] and "300 rows" in model.warnings[0]
    ids = model.tokenizer.hf("The old man went to the sea", add_special_tokens=False).input_ids
    beyond = next(i for i in ids if i >= 300)
    caught = error("TOKEN_OUT_OF_RANGE", model, "The old man went to the sea")
    assert caught.got == f"#{beyond}" and "300 rows" in caught.message
    with pytest.raises(ArgumentError) as raised:
        model.single_token(model.token_text(beyond), "tokens")
    assert (raised.value.code, raised.value.field) == ("TOKEN_OUT_OF_RANGE", "tokens")
    packer = Packer(model, ContextConfig(context_size=16))
    with pytest.raises(ArgumentError, match=f"#{beyond}"):
        packer.add(["The old man went to the sea"])


def test_a_model_and_its_own_tokenizer_leave_nothing_in_doubt(
    glass: LanguageModel, adds_bos: LanguageModel
) -> None:
    assert glass.warnings == adds_bos.warnings == ()


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (["<unk>", "<bos>", "A"], "'<unk>' (#1), '<bos>' (#2) before it."),
        (["<bos>", "<unk>", "A"], "'<unk>' (#1) before it."),
        (["<bos>", "A", "<eos>"], "'<eos>' (#3) behind it."),
        (["<unk>", "A", "<eos>"], "'<unk>' (#1) before it and '<eos>' (#3) behind it."),
    ],
)
def test_tokens_that_the_tokenizer_puts_around_a_text_beside_bos_are_named_at_the_load(
    pattern: list[str], said: str, glass_dir: Path, tmp_path: Path
) -> None:
    model = adding(glass_dir, tmp_path / "model", pattern)
    assert len(model.warnings) == 1 and said in model.warnings[0]
    written = model.tokenize("".join(pattern).replace("A", "The sea"))
    assert written.ids.tolist() == model.tokenizer.hf("The sea").input_ids
    assert written.special.sum() == len(pattern) - 1


def test_a_text_that_the_tokenizer_makes_nothing_of_is_empty(
    glass_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    copytree(glass_dir, folder)
    said = json.loads((folder / "tokenizer.json").read_text())
    said["normalizer"] = {"type": "Replace", "pattern": {"Regex": "\\d+"}, "content": ""}
    (folder / "tokenizer.json").write_text(json.dumps(said))
    error("EMPTY_PROMPT", load_model(folder, device="cpu"), "1984")


def test_a_tokenizer_that_cannot_be_written_out_is_refused_with_its_cause(
    glass_dir: Path, tmp_path: Path
) -> None:
    """Two pieces of one id: it reads, but a copy has lost one of them, which a merge needs."""
    folder = Path(copytree(glass_dir, tmp_path / "model"))
    said = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, (left, right) = said["model"]["vocab"], said["model"]["merges"][0]
    vocabulary[left + right] = vocabulary[left]
    (folder / "tokenizer.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(ModelError, match="out of vocabulary") as refused:
        load_model(folder, device="cpu")
    assert refused.value.code == "FILE_CORRUPT" and "tokenizer" in str(refused.value)


def test_a_tokenizer_that_fails_on_a_text_is_an_error_with_its_cause(
    glass_dir: Path, tmp_path: Path
) -> None:
    """A vocabulary of words without one for the unknown."""
    folder = tmp_path / "model"
    copytree(glass_dir, folder)
    said = json.loads((folder / "tokenizer.json").read_text())
    said |= {"pre_tokenizer": {"type": "Whitespace"}, "normalizer": None}
    pieces = ["a", "The old man went to the sea in 1984 .", "na\u00efve \u65e5\u672c \U0001f642"]
    words = dict.fromkeys(" ".join(pieces).split())
    vocab = {word: i + 300 for i, word in enumerate(words)}
    said["model"] = {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    (folder / "tokenizer.json").write_text(json.dumps(said))
    model = load_model(folder, device="cpu")
    caught = error("TOKENIZER_FAILED", model, "The unheard-of")
    assert "UNK" in caught.message and caught.hint


def test_one_token_of_another_text_is_said_to_be_that(glass_dir: Path, tmp_path: Path) -> None:
    """Not "is not one token but 1"."""
    folder = Path(copytree(glass_dir, tmp_path / "lower"))
    said = json.loads((folder / "tokenizer.json").read_text())
    lower = {"type": "Lowercase"}
    said["normalizer"] = {"type": "Sequence", "normalizers": [lower, said["normalizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(said))
    model = load_model(folder, device="cpu")
    with pytest.raises(ArgumentError, match="of it, another text") as caught:
        model.single_token(" THE")
    assert "' the'" in caught.value.message and "but 1" not in caught.value.message
    with pytest.raises(ArgumentError, match="'' is no token of this model"):
        model.single_token("")
