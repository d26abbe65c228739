"""Weights of a set are read when they are needed, kept while they fit, and never mapped."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.fake_hub import FakeHub
from tests.core.sets import written
from tests.core.sets.written import D_SAE, N_LAYERS, D, inputs, layers

from saescope.errors import FormatError
from saescope.formats import weights
from saescope.sets import load_set

BYTES = 4 * (2 * D * D_SAE + D_SAE + D)
"""A transcoder's, in float32."""


class Reads(list[tuple[str, int]]):
    """The files of which weights were read, with the bytes of each read; headers come another
    way."""

    def total(self) -> int:
        return sum(n_bytes for _, n_bytes in self)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    seen = Reads()

    class Counting(io.FileIO):
        def readinto(self, into: Any) -> int | None:
            got = super().readinto(into)
            seen.append((Path(str(self.name)).name, got or 0))
            return got

    def opened(path: str | Path) -> io.BufferedReader:
        return io.BufferedReader(Counting(path))

    monkeypatch.setattr(weights, "open_file", opened)
    return seen


def test_opening_a_set_reads_no_weight(tmp_path: Path, reads: Reads) -> None:
    ours = load_set(written.per_layer(tmp_path / "set", layers()))
    assert reads == [] and ours.weights_bytes == 0
    assert ours.memory == (N_LAYERS * BYTES, N_LAYERS * BYTES, BYTES, 0, None)


def test_only_the_layer_that_is_used_is_read_and_once(tmp_path: Path, reads: Reads) -> None:
    ours = load_set(written.own(tmp_path / "set", layers()))
    for _ in range(2):
        ours.members[2].encode(inputs()[2])
        ours.members[2].write_rows(torch.tensor([1]), 2)
    assert reads.total() == BYTES == ours.weights_bytes
    assert ours.resident.members == [2]


def test_of_a_cross_layer_transcoder_the_encoder_and_single_decoder_rows_are_read(
    tmp_path: Path, reads: Reads
) -> None:
    ours = load_set(written.cross_layer(tmp_path / "clt", layers(n_decoders=True)))
    ours.members[1].encode(inputs()[1])
    encoder = 4 * (D * D_SAE + D_SAE + D + D_SAE)
    assert reads.total() == encoder == ours.weights_bytes
    assert {name for name, _ in reads} == {"W_enc_1.safetensors"}
    reads.clear()
    ours.members[1].write_rows(torch.tensor([3, 20]), 2)
    assert reads == [("W_dec_1.safetensors", 4 * D)] * 2
    assert ours.weights_bytes == encoder
    decoders = 4 * D_SAE * D * sum(range(N_LAYERS + 1))
    assert ours.memory.on_disk == N_LAYERS * encoder + decoders
    assert ours.memory.whole == N_LAYERS * encoder


def test_what_was_used_longest_ago_makes_room(tmp_path: Path, reads: Reads) -> None:
    ours = load_set(written.own(tmp_path / "set", layers()), resident_bytes=2 * BYTES)
    x = inputs()
    for i in (0, 1, 0, 2):
        ours.members[i].encode(x[i])
    assert ours.resident.members == [0, 2] and ours.weights_bytes == 2 * BYTES
    reads.clear()
    ours.members[0].encode(x[0])
    assert reads == []
    ours.members[1].encode(x[1])
    assert reads.total() == BYTES and ours.resident.members == [0, 1]


def test_a_member_larger_than_the_budget_is_used_alone(tmp_path: Path) -> None:
    made = layers()
    ours = load_set(written.own(tmp_path / "set", made), resident_bytes=10)
    acts = ours.encode(inputs())
    assert ours.resident.members == [N_LAYERS - 1]
    assert all(int(each.l0.sum()) for each in acts)


def test_dropping_frees_all_and_changes_no_number(tmp_path: Path) -> None:
    ours = load_set(written.own(tmp_path / "set", layers()))
    before = ours.encode(inputs())
    assert ours.drop() == N_LAYERS * BYTES and ours.weights_bytes == 0
    after = ours.encode(inputs())
    assert all(torch.equal(a.values, b.values) for a, b in zip(before, after, strict=True))


def test_half_precision_takes_half(tmp_path: Path) -> None:
    ours = load_set(written.own(tmp_path / "set", layers()), dtype="bfloat16")
    assert ours.memory.whole == N_LAYERS * BYTES // 2
    ours.members[0].encode(inputs()[0])
    assert ours.weights_bytes == ours.members[0].sae.weights_bytes == BYTES // 2
    assert ours.members[0].read_rows(torch.tensor([0])).dtype == torch.bfloat16


@pytest.mark.parametrize("form", ["own", "clt"])
def test_a_file_that_shrinks_after_the_opening_is_an_error(form: str, tmp_path: Path) -> None:
    if form == "own":
        ours = load_set(written.own(tmp_path / "set", layers()))
        file = tmp_path / "set/layer_3/sae_weights.safetensors"
    else:
        ours = load_set(written.cross_layer(tmp_path / "set", layers(n_decoders=True)))
        file = tmp_path / "set/W_dec_3.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    ours.members[2].write_rows(torch.tensor([0]), 2)
    with pytest.raises(FormatError, match="torn") as caught:
        ours.members[3].write_rows(torch.tensor([0]), 3)
    assert caught.value.code == "FILE_CORRUPT" and caught.value.hint


def test_only_the_rows_that_are_read_must_be_finite(tmp_path: Path) -> None:
    made = layers(n_decoders=True)
    made[1].decoders[2][5, 3] = torch.nan
    ours = load_set(written.cross_layer(tmp_path / "clt", made))
    assert ours.members[1].write_rows(torch.tensor([4, 6]), 3).isfinite().all()
    with pytest.raises(FormatError) as caught:
        ours.members[1].write_rows(torch.tensor([4, 5]), 3)
    assert caught.value.code == "WEIGHTS_NOT_FINITE"


def test_no_weight_of_a_repository_is_fetched_before_it_is_needed(
    tmp_path: Path, fake_hub: FakeHub
) -> None:
    made = layers(n_decoders=True)
    fake_hub.add_folder("somebody/clt", written.cross_layer(tmp_path / "clt", made))
    ours = load_set(release="somebody/clt")
    sizes = [file.stat().st_size for file in (tmp_path / "clt").glob("W_*")]
    asked = sum(1 for each in fake_hub.requests if "/api/models/" in each.path)
    assert asked == 1, "the hub is asked once for its list of files"
    whole = [each for each in fake_hub.requests if each.n_sent in sizes]
    assert [each for each in whole if "Range" not in each.headers] == []
    fake_hub.requests.clear()
    ours.members[3].write_rows(torch.tensor([1]), 3)
    assert {each.path.rpartition("/")[2] for each in fake_hub.requests} == {"W_dec_3.safetensors"}
