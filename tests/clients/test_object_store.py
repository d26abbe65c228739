"""Activations on S3 itself: s3fs as users install it, and a server that speaks its protocol on this
machine."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.clients]

ROOT = Path(__file__).parents[2]
WRITE_AND_READ = """
import json, sys
sys.path.append(sys.argv[1])  # behind our own packages
import s3fs, torch
from saescope.activations import ShardSource, open_dataset, store_activations, writing
from saescope.models import load_model
from saescope.ranks import Ranks

writing.SHARD_ROWS = 512
hook, model = "blocks.1.hook_resid_pre", load_model(sys.argv[2], device="cpu")

def write(folder, rank, **more):
    part = open_dataset("embedded").part(Ranks(rank, 2))
    return store_activations(model, [hook], part, folder=folder, n_tokens=3000, context_size=32,
        batch_size=128, **more)

def stop(done, total):
    if done > 700:
        raise KeyboardInterrupt

def code_of(work):
    try:
        work()
    except Exception as error:
        return getattr(error, "code", type(error).__name__)

s3 = s3fs.S3FileSystem()
s3.mkdir("bucket")
try:
    write("s3://bucket/deep/acts", 0, progress=stop, save_every_s=0.0)
except KeyboardInterrupt:
    pass
cut = [name.rpartition("/")[2] for name in s3.ls("bucket/deep/acts")]
unread = code_of(lambda: ShardSource("s3://bucket/deep/acts", device=torch.device("cpu")))
seen = []
whole = [write("s3://bucket/deep/acts", 0, progress=lambda done, total: seen.append(done)),
    write("s3://bucket/deep/acts", 1)]
for rank in range(2):
    write(sys.argv[3], rank)
remote, local = (ShardSource(folder, device=torch.device("cpu"))
    for folder in ("s3://bucket/deep/acts", sys.argv[3]))
n_read = 0
while n_read < remote.n_rows:
    n_read += len(remote.next_rows()[hook])
name = remote.shards[0]["file"]
data = bytearray(s3.cat_file(f"bucket/deep/acts/{name}"))
data[-1] ^= 1
s3.pipe_file(f"bucket/deep/acts/{name}", bytes(data))
changed = ShardSource("s3://bucket/deep/acts", device=torch.device("cpu"))
print(json.dumps({
    "cut": cut, "unread": unread, "went_on": seen[0], "whole": whole,
    "same": remote.shards == local.shards, "n_read": n_read == local.n_rows,
    "left": len(s3.ls("bucket/deep/acts", refresh=True)) - len(remote.shards),
    "changed": code_of(lambda: [changed.next_rows() for _ in range(9)]),
    "no_bucket": code_of(lambda: write("s3://nobody-has-this/acts", 0)),
    "buckets": s3.ls("", refresh=True),
}))
"""


@pytest.fixture
def packages(clients: Path) -> Path:
    """s3fs and moto, beside our own environment."""
    return clients / "s3"


@pytest.fixture
def endpoint(packages: Path) -> Iterator[str]:
    """A server with an empty store."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    server = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(packages)})
    try:
        for _ in range(600):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def test_activations_on_s3_are_written_gone_on_with_read_and_verified(
    packages: Path, endpoint: str, tmp_path: Path
) -> None:
    environment = os.environ | {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    words = [str(packages), str(ROOT / "tests/data/glassllm-en"), str(tmp_path / "x")]
    ran = subprocess.run(
        [sys.executable, "-c", WRITE_AND_READ, *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert not any(name.startswith(("manifest", "part")) for name in told.pop("cut"))
    assert told == {
        "unread": "FILE_MISSING",
        "went_on": 512 + 128,
        "whole": [False, True],
        "same": True,
        "n_read": True,
        "left": 1,
        "changed": "HASH_MISMATCH",
        "no_bucket": "CANNOT_WRITE",
        "buckets": ["bucket"],
    }
    assert "hunter2" not in "".join(path.read_text() for path in (tmp_path / "x").glob("*.json"))
