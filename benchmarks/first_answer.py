"""The first answer of a new server, beside a script with sae-lens: which features of the embedded
SAE fire on a sentence, from the start of the process to the answer; in turns.

    PYTHONPATH=core python benchmarks/first_answer.py --peer /path/to/python [--rounds 5]

The model's weights are on this disk already. sae-lens cannot be installed beside saescope: name the
Python of an environment that has it. The strongest feature of the last token must be the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

HANDLE = "smollm2-135m/14.resid_post"
TEXT = "My sister lost her keys and called our mother."
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "0"},
}
CALL = {"name": "encode_text", "arguments": {"sae": HANDLE, "text": TEXT, "top_k": 1}}
MESSAGES: list[dict[str, Any]] = [
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": CALL},
]
SCRIPT = """
import sys
model_folder, sae_folder, text = sys.argv[1:]
import torch
from harvest import hooked_transformer
from sae_lens import SAE
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
hf = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
model = hooked_transformer(model_folder, hf, AutoTokenizer.from_pretrained(model_folder))
sae = SAE.load_from_disk(sae_folder, device="cpu", dtype="float32")
hook = "blocks.14.hook_resid_post"
with torch.no_grad():
    _, cache = model.run_with_cache(text, names_filter=hook, stop_at_layer=15, prepend_bos=False)
    acts = sae.encode(cache[hook])[0, -1]
print("feature", int(acts.argmax()))
"""


class Answer(NamedTuple):
    """The strongest feature of the last token, and the seconds to it."""

    feature: int
    seconds: float


def of_server() -> Answer:
    """A server's, as an agent's client starts it."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "saescope_mcp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdin and server.stdout
        server.stdin.write("".join(json.dumps(message) + "\n" for message in MESSAGES))
        server.stdin.flush()
        answers = (json.loads(line) for line in server.stdout)
        answer = next(each for each in answers if each.get("id") == 2)
        seconds = time.perf_counter() - start
        server.stdin.close()
    document = answer["result"]["structuredContent"]
    assert not answer["result"].get("isError"), document
    return Answer(document["tokens"][-1]["features"][0]["feature"], seconds)


def of_script(peer: str) -> Answer:
    """A script's with sae-lens, which ends with it."""
    from saescope.embedded import EMBEDDED_SAE_DIR, model_dir

    here = Path(__file__).parent
    start = time.perf_counter()
    done = subprocess.run(
        [peer, "-c", SCRIPT, str(model_dir()), str(EMBEDDED_SAE_DIR), TEXT],
        env=os.environ | {"PYTHONPATH": f"{here}:{here.parent / 'core'}", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return Answer(int(done.stdout.splitlines()[-1].removeprefix("feature ")), seconds)


def seconds(peer: str, rounds: int) -> list[tuple[float, float]]:
    """Ours and theirs of each round, after one that warms the files."""
    found: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        ours, theirs = of_server(), of_script(peer)
        assert ours.feature == theirs.feature, (ours, theirs)
        found.append((ours.seconds, theirs.seconds))
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    found = seconds(asked.peer, asked.rounds)
    print(
        f"server {statistics.median(a for a, _ in found):.2f} s, script with sae-lens "
        f"{statistics.median(b for _, b in found):.2f} s, ratio "
        f"{statistics.median(a / b for a, b in found):.2f} ({asked.rounds} runs each)"
    )


if __name__ == "__main__":
    main()
