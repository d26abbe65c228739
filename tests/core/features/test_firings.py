"""Named features on texts and datasets, against loops over `encode_texts` and plain Python."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from tests.core.features.planted import WORDS, sentence
from tests.core.oracle import Family, make_sae

from saescope.activations import open_dataset, open_labelled
from saescope.errors import ArgumentError, FormatError, NotFoundError
from saescope.features import (
    NamedFirings,
    dataset_passages,
    encode_texts,
    find_firings,
    text_passages,
)
from saescope.features.reading.agreement import agreement, rate
from saescope.models import LanguageModel
from saescope.saes import SAE

TEXTS = [
    "The old man saw the little house by the sea, and she said nothing.",
    "She said it was the best day of all; her mother, however, did not.",
    "Nothing else.",
]
PATTERN = r"(?i)\b(she|her)\b"
QUEEN, KING = WORDS.index(" Queen"), WORDS.index(" King")


def naive(family: Family, sae: SAE, feature: int) -> list[tuple[int, int, float]]:
    """(text, position, activation) of each firing, by a loop over dense activations."""
    rows: list[tuple[int, int, float]] = []
    for i, text in enumerate(TEXTS):
        one = encode_texts(family.model, sae, [family.model.tokenize(text)]).texts[0]
        values = one.acts.to_dense()[:, feature].tolist()
        rows += [
            (i, pos, value)
            for pos, value in enumerate(values)
            if bool(one.counted[pos]) and value != 0
        ]
    return rows


@pytest.fixture
def found(family: Family) -> tuple[SAE, NamedFirings]:
    sae = make_sae(family, "standard")
    passages = text_passages(family.model, TEXTS, pattern=PATTERN)
    return sae, find_firings(family.model, sae, passages, features=[3, 7, 11])


def test_places_and_counts_are_those_of_a_loop(
    family: Family, found: tuple[SAE, NamedFirings]
) -> None:
    sae, firings = found
    n_all = sum(row.n_firing for row in firings.features)
    assert firings.total() == n_all
    places = firings.places(n_all)
    for row in firings.features:
        wanted = naive(family, sae, row.feature)
        own = [place for place in places if place.feature == row.feature]
        strongest = sorted(wanted, key=lambda each: -each[2])
        assert [(p.text_index, p.pos) for p in own] == [each[:2] for each in strongest]
        assert [p.activation for p in own] == pytest.approx(
            [each[2] for each in strongest], rel=1e-4
        )
        assert row.n_firing == len(wanted) and row.n_texts == len({text for text, _, _ in wanted})
        assert row.share == len(wanted) / firings.n_tokens
        values = [value for _, _, value in wanted]
        assert row.max_activation == (pytest.approx(max(values), rel=1e-4) if values else None)
        if values:
            assert row.typical_activation == pytest.approx(np.quantile(values, 0.99), rel=1e-4)
    for place in places:
        strings = family.model.tokenize(TEXTS[place.text_index]).strings
        assert place.token == strings[place.pos] and place.text.count("⟦") == 1


def test_pages_go_on_where_the_last_one_ended(found: tuple[SAE, NamedFirings]) -> None:
    firings = found[1]
    whole = firings.places(1000)
    assert [*firings.places(2), *firings.places(1000, offset=2)] == whole
    first = {place.feature for place in whole[:3]}
    assert len(first) == sum(row.n_firing > 0 for row in firings.features)  # by turns


def test_precision_and_recall_are_those_of_plain_python(
    family: Family, found: tuple[SAE, NamedFirings]
) -> None:
    sae, firings = found
    positive: set[tuple[int, int]] = set()
    counted: set[tuple[int, int]] = set()
    matches: list[set[tuple[int, int]]] = []
    for i, text in enumerate(TEXTS):
        tokens = family.model.tokenize(text)
        spans = family.model.tokenizer.hf(
            text, add_special_tokens=False, return_offsets_mapping=True
        ).offset_mapping
        shift = int(tokens.bos_prepended)
        counted |= {(i, pos) for pos in range(1, len(tokens))}
        for match in re.finditer(PATTERN, text):
            own = {
                (i, n + shift)
                for n, (a, b) in enumerate(spans)
                if a < match.end() and b > match.start()
            }
            positive |= own
            if own - {(i, 0)}:
                matches.append(own)
    positive &= counted
    assert positive and len(counted) == firings.n_tokens
    for row in firings.features:
        fires = {(text, pos) for text, pos, _ in naive(family, sae, row.feature)}
        both = len(fires & positive)
        by_token, by_text = row.by_token, row.by_text
        assert by_token is not None and by_text is not None
        assert by_token.n_positive == len(positive)
        assert by_token.base_rate == pytest.approx(len(positive) / len(counted))
        value = by_token.precision and by_token.precision.value
        assert value == (pytest.approx(both / len(fires)) if fires else None)
        assert by_token.recall is not None
        assert by_token.recall.value == pytest.approx(both / len(positive))
        assert row.matches_hit is not None and row.matches_hit.low is None  # three texts
        hits = sum(bool(own & fires) for own in matches)
        assert row.matches_hit.value == pytest.approx(hits / len(matches))
        assert by_text.n_positive == 2 and by_text.base_rate == pytest.approx(2 / 3)


def test_auc_counts_pairs() -> None:
    rng = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (60,), generator=rng).float()
    positive = torch.rand(60, generator=rng) < 0.3
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a in scores[positive].tolist()
        for b in scores[~positive].tolist()
    ]
    assert agreement(scores, positive, torch.arange(60)).auc == pytest.approx(np.mean(pairs))


def test_what_fires_nowhere_has_a_row_of_zeros(glass: LanguageModel, planted: SAE) -> None:
    passages = text_passages(glass, ["the Queen said that"], pattern="King")
    firings = find_firings(glass, planted, passages, features=[KING, QUEEN, KING])
    king, queen = firings.features
    assert (king.feature, king.n_firing, king.share, king.n_texts) == (KING, 0, 0.0, 0)
    assert king.max_activation is None and king.by_token is not None
    assert king.by_token.precision is None and king.by_token.recall is None
    assert queen.n_firing == 1 and firings.places(9)[0].text == "the ⟦Queen⟧ said that"


def test_named_positions_alone_count(glass: LanguageModel, planted: SAE) -> None:
    passages = text_passages(glass, ["the Queen said Queen"], prepend_bos=True)
    both = find_firings(glass, planted, passages, features=[QUEEN])
    last_only = text_passages(glass, ["the Queen said Queen"], positions=[-1], prepend_bos=True)
    last = find_firings(glass, planted, last_only, features=[QUEEN])
    assert both.features[0].n_firing == 2 and last.features[0].n_firing == last.n_tokens == 1
    assert last.places(5)[0].pos == len(passages[0].tokens) - 1


def test_a_feature_that_the_sae_lacks_is_refused(glass: LanguageModel, planted: SAE) -> None:
    with pytest.raises(ArgumentError) as refused:
        find_firings(glass, planted, text_passages(glass, ["a b"]), features=[0, 99, 100])
    assert refused.value.code == "FEATURE_OUT_OF_RANGE" and "99, 100" in refused.value.message


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Documents, some with queens, one of them longer than a passage."""
    rng = random.Random(0)
    documents = [
        sentence(rng, 12, [" Queen", " King"] if i % 3 == 0 else [], n=2).strip() for i in range(30)
    ]
    documents[4] = sentence(rng, 400, [" Queen"], n=9).strip()
    path = tmp_path_factory.mktemp("firings") / "corpus.csv"
    path.write_text("text\n" + "\n".join(documents) + "\n", encoding="utf-8")
    return path, documents


def test_over_a_dataset_a_planted_feature_is_its_word(
    glass: LanguageModel, planted: SAE, corpus: tuple[Path, list[str]]
) -> None:
    path, documents = corpus
    passages = dataset_passages(glass, open_dataset(str(path)), pattern=r"\bQueen\b")
    firings = find_firings(glass, planted, passages, features=[QUEEN, KING])
    queen, king = firings.features
    n_queens = sum(len(re.findall(r"\bQueen\b", text)) for text in documents)
    with_queens = sum("Queen" in text for text in documents)
    assert firings.n_texts == 30 and queen.n_firing == n_queens and queen.n_texts == with_queens
    assert queen.by_token is not None and queen.by_text is not None
    for side in (queen.by_token, queen.by_text):
        assert side.precision and side.recall
        assert (side.precision.value, side.recall.value, side.auc) == (1.0, 1.0, 1.0)
        assert side.precision.low is not None and 0.5 < side.precision.low < 1.0
    assert queen.matches_hit and queen.matches_hit.value == 1.0
    assert king.by_token and king.by_token.precision and king.by_token.precision.value == 0.0
    assert queen.by_text.base_rate == pytest.approx(with_queens / 30)
    places = firings.places(100, one_a_text=True)
    tops = [place for place in places if place.feature == QUEEN]
    assert len({place.text_index for place in tops}) == len(tops) == with_queens
    assert all("Queen" in documents[place.text_index] for place in tops)
    assert len(places) == firings.total(one_a_text=True)


def test_passages_of_a_dataset_lose_no_token_and_stop_at_the_budget(
    glass: LanguageModel, corpus: tuple[Path, list[str]]
) -> None:
    path, documents = corpus
    whole = dataset_passages(glass, open_dataset(str(path)), prepend_bos=True)
    by_document: dict[int, list[int]] = {}
    for passage in whole:
        assert len(passage.tokens) <= 128 and int(passage.tokens.ids[0]) == glass.tokenizer.bos_id
        by_document.setdefault(passage.text, []).extend(passage.tokens.ids[1:].tolist())
    hf: Any = glass.tokenizer.hf
    wanted = [list(hf(text, add_special_tokens=False).input_ids) for text in documents]
    assert list(by_document.values()) == wanted
    some = dataset_passages(glass, open_dataset(str(path)), n_tokens=50, prepend_bos=False)
    flat = [token for passage in some for token in passage.tokens.ids.tolist()]
    assert flat == [token for ids in wanted for token in ids][:50]


def test_a_dataset_without_text_is_refused(glass: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n \n")
    with pytest.raises(NotFoundError) as refused:
        dataset_passages(glass, open_dataset(str(tmp_path / "empty.txt")))
    assert refused.value.code == "DATASET_EMPTY"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_labels_of_documents_are_a_test_by_text(
    glass: LanguageModel, planted: SAE, tmp_path: Path, suffix: str
) -> None:
    rng = random.Random(1)
    texts = [sentence(rng, 12, [" Queen"] if i % 2 else []).strip() for i in range(20)]
    royal = [(i % 2 == 1 and i % 5 != 0) or i == 2 for i in range(20)]
    path = written(tmp_path / f"labelled{suffix}", texts, royal)
    dataset = open_labelled(str(path), "royal")
    firings = find_firings(glass, planted, dataset_passages(glass, dataset), features=[QUEEN])
    fires = ["Queen" in text for text in texts]
    both = sum(f and r for f, r in zip(fires, royal, strict=True))
    by_text = firings.features[0].by_text
    assert by_text and by_text.precision and by_text.recall and firings.labelled
    assert by_text.n_positive == sum(royal) and by_text.base_rate == sum(royal) / 20
    assert by_text.precision.value == pytest.approx(both / sum(fires))
    assert by_text.recall.value == pytest.approx(both / sum(royal))
    assert firings.features[0].by_token is None
    turned = open_labelled(str(path), f"royal={'false' if suffix != '.csv' else 'no'}")
    assert [each.label for each in turned.labelled()] == [not label for label in royal]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_documents_without_a_label_are_read_and_not_in_the_test(
    glass: LanguageModel, planted: SAE, tmp_path: Path, suffix: str
) -> None:
    rng = random.Random(1)
    texts = [sentence(rng, 12, [" Queen"] if i % 2 else []).strip() for i in range(20)]
    royal = [None if i % 5 == 0 else float(i % 2 == 1 or i == 2) for i in range(20)]
    path = written(tmp_path / f"some{suffix}", texts, royal)
    named = ("royal=yes",) if suffix == ".csv" else ("royal=1", "royal= 1.0")
    for column in ("royal", *named):
        passages = dataset_passages(glass, open_labelled(str(path), column))
        firings = find_firings(glass, planted, passages, features=[QUEEN])
        by_text = firings.features[0].by_text
        assert by_text and by_text.precision and by_text.recall and firings.labelled
        fires = {i for i, text in enumerate(texts) if "Queen" in text and royal[i] is not None}
        true = {i for i, label in enumerate(royal) if label}
        assert by_text.n_positive == len(true) and by_text.base_rate == len(true) / 16
        assert by_text.precision.value == pytest.approx(len(fires & true) / len(fires))
        assert by_text.recall.value == pytest.approx(len(fires & true) / len(true))
        assert firings.n_unlabelled == 4 and firings.n_texts == 20
        assert firings.features[0].n_texts == 10


def written(path: Path, texts: Sequence[str], labels: Sequence[bool | float | None]) -> Path:
    rows = [{"text": t, "royal": r} for t, r in zip(texts, labels, strict=True)]
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        words = ("" if r is None else "yes" if r else "no" for r in labels)
        lines = (f"{text},{word}\n" for text, word in zip(texts, words, strict=True))
        path.write_text("text,royal\n" + "".join(lines))
    return path


@pytest.mark.parametrize(
    ("label_column", "code", "hint"),
    [
        ("royl", "COLUMN_NOT_FOUND", 'label_column="kind"'),
        ("kind", "LABEL_INVALID", 'label_column="kind=king"'),
        ("kinds=king", "COLUMN_NOT_FOUND", "column=value"),
    ],
)
def test_labels_that_are_none_are_refused(
    tmp_path: Path, label_column: str, code: str, hint: str
) -> None:
    path = tmp_path / "kinds.csv"
    path.write_text("text,kind\nthe king said,king\nthe cat said,cat\n")
    with pytest.raises((NotFoundError, FormatError)) as refused:
        open_labelled(str(path), label_column, text_column="text")
    assert refused.value.code == code and hint in refused.value.hint
    assert refused.value.field == "label_column"
    named = open_labelled(str(path), "kind=king", text_column="text")
    assert [each.label for each in named.labelled()] == [True, False]


@pytest.mark.parametrize("n_texts", [12, 60])
def test_intervals_hold_the_true_share_where_texts_differ(n_texts: int) -> None:
    rng = np.random.default_rng(n_texts)
    held = 0
    for _ in range(400):
        shares = rng.beta(3.0, 2.0, n_texts)  # 0.6 on average
        text = torch.arange(n_texts).repeat_interleave(10)
        hit = torch.tensor(rng.random(n_texts * 10) < np.repeat(shares, 10))
        found = rate(hit, text)
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= 0.6 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_few_texts_have_no_interval_and_perfect_ones_have_width() -> None:
    four = rate(torch.ones(40).bool(), torch.arange(40) % 4)
    many = rate(torch.ones(40).bool(), torch.arange(40) % 10)
    assert four is not None and (four.value, four.low, four.high) == (1.0, None, None)
    assert many is not None and many.low is not None and 0.6 < many.low < 0.8 and many.high == 1.0
