"""A hash that tells which weights a set has, without reading all of them."""

from pathlib import Path

import pytest
from tests.core.sets import written

from saescope.sets import identity, load_set
from saescope.sets.identity import files_hash


def test_the_same_files_have_one_hash_and_others_another(tmp_path: Path) -> None:
    made = written.layers(n_decoders=True)
    one = written.cross_layer(tmp_path / "one", made)
    same = written.cross_layer(tmp_path / "same", made)
    made[2].decoders[1][5, 3] += 1e-3
    other = written.cross_layer(tmp_path / "other", made)
    hashes = [files_hash(load_set(place).members) for place in (one, same, other)]
    assert hashes[0] == hashes[1] != hashes[2] and len(hashes[0]) == 64
    some = files_hash(load_set(one, layers="0-2").members)
    assert some != hashes[0]


def test_of_large_files_samples_from_all_over_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = written.cross_layer(tmp_path / "clt", written.layers(n_decoders=True))
    file = place / "W_dec_1.safetensors"
    size = file.stat().st_size
    for name, value in (("WHOLE_BYTES", 256), ("_ENDS", 64), ("_BLOCK", 16), ("_N_BLOCKS", 8)):
        monkeypatch.setattr(identity, name, value)
    before = files_hash(load_set(place).members)
    block = 64 + 5 * (size - 128) // 8  # where the sixth begins
    seen: list[bool] = []
    for at in (block + 3, block + 40, size - 1):
        content = bytearray(file.read_bytes())
        content[at] ^= 1
        file.write_bytes(content)
        seen.append(files_hash(load_set(place).members) != before)
        content[at] ^= 1
        file.write_bytes(content)
    assert seen == [True, False, True]
