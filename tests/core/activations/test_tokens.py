"""Packing loses and repeats nothing; an epoch is every context once, in random order; a saved
position goes on exactly."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from saescope.activations import (
    ContextConfig,
    ContextStream,
    Dataset,
    counted_positions,
    is_held_out,
    read_contexts,
    read_owned_contexts,
)
from saescope.activations.tokens import NOTHING, Packer
from saescope.errors import ArgumentError, SaescopeError
from saescope.models import LanguageModel

DOCUMENTS = [
    f"Alice was number {i}, and the Queen said {'off with his head! ' * (i % 9)}"
    for i in range(400)
]


def dataset(documents: Sequence[str] = DOCUMENTS) -> Dataset:
    return Dataset("test", "print", lambda: iter(documents))


def rows(contexts: torch.Tensor) -> Counter[tuple[int, ...]]:
    return Counter(map(tuple, contexts.tolist()))


def epoch(stream: ContextStream, n: int = 7) -> torch.Tensor:
    """All contexts of the epoch that comes next."""
    taken = [stream.take(n)]
    while stream.slots.n_filled or not stream.ended:
        taken.append(stream.take(n))
    return torch.cat(taken)


@pytest.mark.parametrize("context_size", [2, 3, 16, 127])
@pytest.mark.parametrize("bos", [False, True])
def test_packed_contexts_are_all_tokens_in_order(
    glass: LanguageModel, context_size: int, bos: bool
) -> None:
    cfg = ContextConfig(context_size=context_size, prepend_bos=bos, held_out=0.0)
    contexts = torch.cat(list(read_contexts(glass, dataset(), cfg)))
    tokenizer = glass.tokenizer
    expected = [
        i
        for d in DOCUMENTS
        for i in [tokenizer.eos_id, *tokenizer.hf(d, add_special_tokens=False).input_ids]
    ][1:]
    content = contexts[:, int(bos) :].flatten()
    assert content[content != NOTHING].tolist() == expected
    assert int((content == NOTHING).sum()) < context_size
    assert not bos or set(contexts[:, 0].tolist()) == {tokenizer.bos_id}


@pytest.mark.parametrize("join", [True, False])
@pytest.mark.parametrize("bos", [True, False])
def test_each_context_names_the_document_that_it_begins_in(
    glass: LanguageModel, join: bool, bos: bool
) -> None:
    cfg = ContextConfig(context_size=48, prepend_bos=bos, join_documents=join, held_out=0.0)
    documents, encode = [*DOCUMENTS[:60], *DOCUMENTS[:2]], glass.tokenizer.hf
    n, between = 48 - bos, join
    owner = list[int]()  # of each token, separators with the document that follows
    for i, document in enumerate(documents):
        ids = encode(document, add_special_tokens=False).input_ids
        length = len(ids) + (between and i > 0)
        owner += [i % 60] * (length if join else length + -length % n)
    parts = list(read_owned_contexts(glass, dataset(documents), cfg))
    said = torch.cat([part.documents for part in parts]).tolist()
    assert said == owner[::n] and len(set(said)) > 10
    contexts = list(read_contexts(glass, dataset(documents), cfg))
    assert torch.equal(torch.cat([part.ids for part in parts]), torch.cat(contexts))


def test_bos_follows_the_models_tokenizer_unless_said(glass: LanguageModel) -> None:
    first = next(read_contexts(glass, dataset(), ContextConfig(context_size=16)))[:, 0]
    assert bool((first == glass.tokenizer.bos_id).all()) == glass.tokenizer.adds_bos


def test_a_long_document_is_tokenized_in_pieces_without_loss(glass: LanguageModel) -> None:
    long = " ".join(DOCUMENTS) * 6
    contexts = torch.cat(
        list(
            read_contexts(
                glass,
                dataset([long]),
                ContextConfig(context_size=100, prepend_bos=False, held_out=0.0),
            )
        )
    )
    ids = contexts.flatten()
    assert (
        len(long) > 100_000
        and glass.tokenizer.join(ids[ids != NOTHING].tolist()).strip() == long.strip()
    )


def test_an_epoch_has_every_context_once_and_each_its_own_order(glass: LanguageModel) -> None:
    cfg = ContextConfig(context_size=16)
    everything = torch.cat(list(read_contexts(glass, dataset(), cfg)))
    stream = ContextStream(glass, dataset(), cfg)
    first, second = epoch(stream), epoch(stream)
    assert rows(first) == rows(second) == rows(everything)
    assert stream.epoch == 1
    assert first.tolist() != second.tolist() and first.tolist() != everything.tolist()


def test_a_pool_smaller_than_the_text_still_gives_each_context_once(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saescope.activations.tokens.POOL_TOKENS", 16 * 20)
    cfg = ContextConfig(context_size=16)
    stream = ContextStream(glass, dataset(), cfg)
    assert rows(epoch(stream)) == rows(torch.cat(list(read_contexts(glass, dataset(), cfg))))
    assert stream.memory_bytes == 20 * (16 * 4 + 8)


def test_held_out_text_is_never_in_a_training_context(glass: LanguageModel) -> None:
    documents = [*DOCUMENTS, *DOCUMENTS[:100]]
    said = {split: "".join(_text(glass, documents, split)) for split in ("train", "held_out")}
    held_out = [d for d in documents if is_held_out(d, 0.2)]
    assert 40 < len(held_out) < 160
    for document in documents:
        inside, outside = (
            ("held_out", "train") if is_held_out(document, 0.2) else ("train", "held_out")
        )
        assert document.strip() in said[inside] and document.strip() not in said[outside]


def _text(model: LanguageModel, documents: list[str], split: Any) -> list[str]:
    cfg = ContextConfig(context_size=64, prepend_bos=False, split=split, held_out=0.2)
    ids = torch.cat(list(read_contexts(model, dataset(documents), cfg))).flatten()
    return [model.tokenizer.join(ids[ids != NOTHING].tolist())]


@pytest.mark.parametrize("pool_tokens", [16 * 20, 2**20])
def test_a_saved_position_goes_on_with_the_same_contexts(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch, pool_tokens: int
) -> None:
    monkeypatch.setattr("saescope.activations.tokens.POOL_TOKENS", pool_tokens)
    stream = ContextStream(glass, dataset(), ContextConfig(context_size=16))
    for n in (5, 60, 200, 300):
        for _ in range(n):
            stream.take(3)
        state = stream.state_dict()
        expected = [stream.take(4) for _ in range(200)]
        again = ContextStream(glass, dataset(), ContextConfig(context_size=16, seed=9))
        again.load_state_dict(state)
        assert all(torch.equal(again.take(4), contexts) for contexts in expected)
        assert again.epoch == stream.epoch


def test_another_seed_is_another_order(glass: LanguageModel) -> None:
    streams = [
        ContextStream(glass, dataset(), ContextConfig(context_size=16, seed=seed))
        for seed in (0, 0, 1)
    ]
    first, same, other = (stream.take(20) for stream in streams)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_position_0_special_tokens_and_nothing_are_left_out(glass: LanguageModel) -> None:
    bos, eos = glass.tokenizer.bos_id, glass.tokenizer.eos_id
    contexts = torch.tensor([[bos, 100, eos, 101], [100, 101, NOTHING, NOTHING]], dtype=torch.int32)
    assert counted_positions(contexts, glass.tokenizer.special_ids).tolist() == [
        [False, True, False, True],
        [False, True, False, False],
    ]


def test_repeats_of_the_first_token_at_the_start_are_position_0_again(glass: LanguageModel) -> None:
    contexts = torch.tensor(
        [[100, 100, 100, 101, 100], [100, 100, 100, 100, 100]], dtype=torch.int32
    )
    assert counted_positions(contexts, glass.tokenizer.special_ids).tolist() == [
        [False, False, False, True, True],
        [False] * 5,
    ]


@pytest.mark.parametrize("documents", [[], ["", "  \n"]])
def test_a_dataset_without_text_is_an_error(glass: LanguageModel, documents: list[str]) -> None:
    with pytest.raises(SaescopeError, match="no text") as caught:
        ContextStream(glass, dataset(documents), ContextConfig()).take(1)
    assert caught.value.code == "DATASET_EMPTY"


def test_a_dataset_too_small_for_a_held_out_part_is_an_error(glass: LanguageModel) -> None:
    with pytest.raises(SaescopeError, match="held-out") as caught:
        ContextStream(glass, dataset(["one"]), ContextConfig(split="held_out")).take(1)
    assert caught.value.code == "DATASET_EMPTY"


@pytest.mark.parametrize("context_size", [0, 1, 100_000])
def test_a_context_size_that_the_model_does_not_have_is_an_error(
    glass: LanguageModel, context_size: int
) -> None:
    with pytest.raises(SaescopeError) as caught:
        ContextStream(glass, dataset(), ContextConfig(context_size=context_size))
    assert caught.value.code == "OUT_OF_RANGE"


@pytest.mark.parametrize("bos", [True, False])
def test_contexts_that_do_not_join_documents(glass: LanguageModel, bos: bool) -> None:
    """Each document begins a context, and no token of it is lost; the rest of its last context is
    empty."""
    cfg = ContextConfig(context_size=8, prepend_bos=bos, join_documents=False)
    packer, documents = (
        Packer(glass, cfg),
        ["The old man.", "A fox ran over the hill by the sea.", "x"],
    )
    packed = torch.cat([packer.add(documents), packer.flush()])
    head = [glass.tokenizer.bos_id or 0] if bos else []
    expected: list[list[int]] = []
    for document in documents:
        ids = glass.tokenizer.hf(document, add_special_tokens=False).input_ids
        width = 8 - len(head)
        for at in range(0, len(ids), width):
            part = ids[at : at + width]
            expected.append([*head, *part, *[NOTHING] * (width - len(part))])
    assert packed.tolist() == expected


@pytest.mark.parametrize(
    ("separator", "between"),
    [("auto", ["eos"]), ("eos", ["eos"]), ("bos", ["bos"]), ("none", [])],
)
def test_what_stands_between_documents(
    glass: LanguageModel, separator: Any, between: list[str]
) -> None:
    packer = Packer(glass, ContextConfig(context_size=32, prepend_bos=False, separator=separator))
    packed = torch.cat([packer.add(["The fox.", "The sea."]), packer.flush()]).flatten()
    one, two = (
        glass.tokenizer.hf(text, add_special_tokens=False).input_ids
        for text in ("The fox.", "The sea.")
    )
    ids = [getattr(glass.tokenizer, f"{name}_id") for name in between]
    assert packed[packed != NOTHING].tolist() == [*one, *ids, *two]


def test_a_separator_that_the_tokenizer_lacks_is_refused(
    glass: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glass.tokenizer, "bos_id", None)
    with pytest.raises(ArgumentError, match="no BOS token") as caught:
        Packer(glass, ContextConfig(separator="bos"))
    assert (caught.value.code, caught.value.field) == ("NO_SUCH_TOKEN", "document_separator")
