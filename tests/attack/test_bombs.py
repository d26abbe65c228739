"""Small files that claim or unpack to far more than they are (parquet, GGUF, npz, .pt, JSON): a
coded error, in bounded memory and time."""

import io
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tests.attack.conftest import Attack
from tests.server.helpers import save_random_sae

from saescope.activations.readers import READERS
from saescope.errors import SaescopeError
from saescope.formats.pickles import pickles_allowed
from saescope.load import load_sae
from saescope.models import load_model

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux's /proc/self/clear_refs"
)
MOST_BYTES, MOST_S = 400 << 20, 30.0
HUGE = 1 << 60
Make = Callable[[Path], object]


@contextmanager
def bounded() -> Generator[None]:
    """Little memory at any moment of the block, and little processor time."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = _peak(), time.process_time()
    yield
    grown, seconds = _peak() - before, time.process_time() - began
    assert grown < MOST_BYTES, f"{grown >> 20} MB more"
    assert seconds < MOST_S, f"{seconds:.0f} s"


def _peak() -> int:
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def refused(work: Callable[[], object]) -> None:
    with bounded(), pytest.raises(SaescopeError) as caught:
        work()
    assert caught.value.code not in ("INTERNAL", "ERROR") and caught.value.message


def parquet(column: Callable[[], object], n: int = 1) -> Make:
    def make(file: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet as pq

        table = pa.table({"text": column()})
        with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
            for _ in range(n):
                writer.write_table(table)

    return make


def repeated(value: str, n: int) -> object:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, "int32")), pa.array([value]))


def nested(depth: int) -> object:
    import pyarrow as pa

    kind = pa.string()
    for _ in range(depth):
        kind = pa.struct([("a", kind)])
    return pa.nulls(1, kind)


def nulls(n: int) -> object:
    import pyarrow as pa

    return pa.nulls(n, pa.string())


def footer(n: int) -> Make:
    return lambda file: file.write_bytes(b"PAR1" + bytes(64) + struct.pack("<I", n) + b"PAR1")


PARQUET: dict[str, Make] = {
    "a string of 300 MB": parquet(lambda: ["a" * (300 << 20)]),
    "one string in 20 million rows": parquet(lambda: repeated("", 10**6), 20),
    "20 million nulls": parquet(lambda: nulls(10**6), 20),
    "a schema 200 deep": parquet(lambda: nested(200)),
    "a footer of 4 GB": footer(0xFFFFFFFF),
    "a footer longer than the file": footer(1 << 20),
    "a string of 17 million in 1000 rows": parquet(lambda: repeated("a " * (17 << 19), 1000)),
}


@pytest.mark.attack
@pytest.mark.parametrize("name", PARQUET)
def test_parquet(name: str, attack: Attack, tmp_path: Path) -> None:
    PARQUET[name](tmp_path / "data.parquet")
    with attack.case(name):
        refused(lambda: list(islice(READERS[".parquet"](tmp_path / "data.parquet", ""), 1000)))


@pytest.mark.attack
def test_a_long_string_that_many_rows_share_is_read_once(attack: Attack, tmp_path: Path) -> None:
    value = "a " * (1 << 22)
    parquet(lambda: repeated(value, 100))(tmp_path / "data.parquet")
    with attack.case("8 MB in 100 rows"), bounded():
        n = sum(len(text) for text in READERS[".parquet"](tmp_path / "data.parquet", ""))
        assert n == 100 * len(value)


def gguf(n_tensors: int, n_fields: int, *body: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_fields) + b"".join(body)


def text(value: bytes, n: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if n is None else n) + value


def array(depth: int) -> bytes:
    return struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 0, 1) + b"\0"


KEY = text(b"general.name")
GGUF = {
    "2^60 tensors": gguf(HUGE, 0),
    "2^60 fields": gguf(0, HUGE),
    "a key of 2^60": gguf(0, 1, text(b"a", HUGE)),
    "a string of 2^60": gguf(0, 1, KEY, struct.pack("<I", 8), text(b"a", HUGE)),
    "a list of 2^60": gguf(0, 1, KEY, struct.pack("<IIQ", 9, 4, HUGE)),
    "a list of 2^60 strings": gguf(0, 1, KEY, struct.pack("<IIQ", 9, 8, HUGE)),
    "lists 10,000 deep": gguf(0, 1, KEY, struct.pack("<I", 9), array(10_000)),
    "a list of 2^60 empty lists": gguf(0, 1, KEY, struct.pack("<IIQ", 9, 9, HUGE), bytes(1 << 20)),
    "8 million empty strings": gguf(0, 1, KEY, struct.pack("<IIQ", 9, 8, 8 << 20), bytes(1 << 20)),
    "a tensor of 2^180": gguf(1, 0, text(b"t"), struct.pack("<IQQQIQ", 3, HUGE, HUGE, HUGE, 0, 0)),
    "2^32 dimensions": gguf(1, 0, text(b"t"), struct.pack("<I", 0xFFFFFFFF)),
}


@pytest.mark.parametrize("name", GGUF)
def test_gguf(name: str, attack: Attack, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(GGUF[name])
    with attack.case(name):
        refused(lambda: load_model(str(tmp_path / "model.gguf"), device="cpu"))


def archive(entries: dict[str, bytes], *, mode: int = 0o100644) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            packed.writestr(entry, content)
    return out.getvalue()


def zeros(n_bytes: int) -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(n_bytes // 4, "float32"))
    return out.getvalue()


NPZ: dict[str, Callable[[], bytes]] = {
    "200 MB of zeros": lambda: archive({"W_enc.npy": zeros(200 << 20)}),
    "50,000 arrays": lambda: archive({f"a{i}.npy": b"" for i in range(50_000)}),
    "links": lambda: archive({"W_enc.npy": b"/etc/passwd"}, mode=0o120777),
}
PT: dict[str, Callable[[], bytes]] = {
    "200 MB of zeros": lambda: archive({"a/data.pkl": b"\x80\x02}.", "a/data/0": bytes(200 << 20)}),
    "50,000 entries": lambda: archive({f"a/data/{i}": b"" for i in range(50_000)}),
    "links": lambda: archive({"a/data.pkl": b"/etc/passwd"}, mode=0o120777),
    "an endless pickle": lambda: b"\x80\x02" + b"]" * (8 << 20),
    "a string of 2^31": lambda: b"\x80\x02X" + struct.pack("<I", 0x7FFFFFFF) + b"a.",
}


@pytest.mark.attack
@pytest.mark.parametrize("name", NPZ)
def test_npz(name: str, attack: Attack, tmp_path: Path) -> None:
    place = tmp_path / "gemma-scope-2b-pt-res" / "layer_3"
    place.mkdir(parents=True)
    (place / "params.npz").write_bytes(NPZ[name]())
    with attack.case(name):
        refused(lambda: load_sae(place, device="cpu"))


@pytest.mark.attack
@pytest.mark.parametrize("name", PT)
def test_pt(name: str, attack: Attack, tmp_path: Path) -> None:
    place = tmp_path / "resid_post_mlp_v5_32k" / "8.pt"
    place.parent.mkdir()
    place.write_bytes(PT[name]())
    with attack.case(name), pickles_allowed(True):
        refused(lambda: load_sae(place, device="cpu"))


JSON = {
    "deep lists": "[" * 200_000,
    "deep objects": '{"a":' * 200_000,
    "a number of 4 million digits": '{"d_in": ' + "9" * 4_000_000 + "}",
    "300,000 keys": "{" + ",".join(f'"{i}":0' for i in range(300_000)) + "}",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.attack if n.endswith("keys") else []) for n in JSON],
)
def test_json(name: str, attack: Attack, glass_dir: Path, tmp_path: Path) -> None:
    sae = save_random_sae(tmp_path / "sae")
    (sae / "cfg.json").write_text(JSON[name])
    with attack.case(f"cfg.json, {name}"):
        refused(lambda: load_sae(sae, device="cpu"))
    for file in ("config.json", "model.safetensors.index.json"):
        model = tmp_path / file
        model.mkdir()
        for each in glass_dir.iterdir():
            (model / each.name).symlink_to(each)
        (model / file).unlink(missing_ok=True)
        if file.startswith("model"):
            (model / "model.safetensors").unlink()
        (model / file).write_text(JSON[name])
        with attack.case(f"{file}, {name}"):
            refused(lambda model=model: load_model(str(model), device="cpu"))
