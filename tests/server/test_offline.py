"""With SAESCOPE_OFFLINE nothing is connected to and no name is looked up, by any command, tool or
process that they start."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.cli.commands import app

AUDIT = """
import os, sys

HERE = {None, "", "localhost", "127.0.0.1", "::1", b"localhost", b"127.0.0.1"}
SENT = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}
ASKED = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")

def watch(event, args):
    if event in SENT:
        address = args[SENT[event]]
        host = address[0] if isinstance(address, tuple) else None
    elif event in ASKED:
        host = args[0]
    else:
        return
    if host not in HERE:
        with open(os.environ["AUDIT_LOG"], "a") as log:
            log.write(f"{event} {host} {sys.argv[:3]}\\n")
        raise OSError(f"the audit refuses {event} {host}")

sys.addaudithook(watch)
with open(os.environ["AUDIT_LOG"] + ".watched", "a") as log:
    log.write(f"{os.getpid()}\\n")
"""
COMMANDS = """
import json, sys
from typer.testing import CliRunner
from saescope_mcp.cli import quieten

quieten()
from saescope_mcp.cli.commands import app

for words in json.loads(sys.stdin.read()):
    done = CliRunner().invoke(app, words)
    crash = done.exception if not isinstance(done.exception, SystemExit) else None
    said = [words, done.exit_code, done.output, repr(crash) if crash else ""]
    print(json.dumps(said), flush=True)
"""
MESSAGES = [
    {
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "audit", "version": "1"},
        },
    },
    {"method": "notifications/initialized"},
    {"id": 2, "method": "resources/list"},
    {"id": 3, "method": "prompts/list"},
    {"id": 4, "method": "resources/read", "params": {"uri": "sae://catalogue"}},
    {"id": 5, "method": "tools/call", "params": {"name": "load_sae", "arguments": {"wait_s": 55}}},
]


@pytest.fixture
def audited(tmp_path: Path, own_home: Path) -> dict[str, str]:
    """The environment of a process that is watched, and whose children are."""
    (tmp_path / "sitecustomize.py").write_text(AUDIT)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    for name in ("WANDB_MODE", "TRANSFORMERS_OFFLINE"):
        environ.pop(name, None)
    return {
        **environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "SAESCOPE_OFFLINE": "1",
        "SAESCOPE_HOME": str(own_home / "empty"),
        "HF_HUB_CACHE": str(own_home / "hub"),
        "AUDIT_LOG": str(tmp_path / "log"),
    }


def reached(environ: dict[str, str]) -> list[str]:
    log = Path(environ["AUDIT_LOG"])
    return log.read_text().splitlines() if log.exists() else []


FETCHING = [
    ["doctor"],
    ["demo"],
    ["find-saes", "--query", "gpt2"],
    ["load-sae"],
    ["load-sae", "--release", "gpt2-small-res-jb", "--sae-id", "blocks.8.hook_resid_pre"],
    ["load-sae", "--release", "owner/name", "--sae-id", "folder", "--revision", "main"],
]


def commands(sae_dir: Path, glass_dir: Path) -> list[list[str]]:
    """Every command, with whatever it might want the network for."""
    sae = ["--path", str(sae_dir), "--model", str(glass_dir)]
    train = ["train-sae", "--model", str(glass_dir), "--hook-name", "blocks.1.hook_resid_post"]
    small = ["--training-tokens", "4096", "--d-sae", "64"]
    claim = [
        "claim",
        "--text",
        "It writes.",
        "--feature",
        "7",
        "--effect",
        " sea",
        "--level",
        "seen",
    ]
    few_prompts = ["--prompts", "A cat", "--held-out", "A dog", "--max-new-tokens", "2"]
    handle = "glassllm-en/2.resid_post/random"
    return [
        *FETCHING,
        ["load-sae", "--path", str(sae_dir), "--model", "owner/name"],
        ["load-sae", *sae],
        ["unload", "--handle", "glassllm-en"],
        ["server-status"],
        ["job-status"],
        ["job-status", "--job-id", "train-000000"],
        ["cancel-job", "--job-id", "train-000000"],
        ["encode-text", *sae, "--text", "A cat sat"],
        ["top-features", *sae, "--text", "A cat sat"],
        ["attribute-logit", *sae, "--prompt", "A cat sat", "--k", "1", "--n-controls", "1"],
        ["trace-circuit", *sae, "--prompt", "A cat sat", "--n-measured", "0"],
        ["encode-text", *sae, "--text", "A cat", "--positions", "1", "--lens", "gemma-2-2b"],
        ["compare-prompts", *sae, "--a", "A cat sat", "--b", "A dog sat"],
        ["steer-search", *sae, "--feature", "7=1", "--concept", " sea", *few_prompts],
        ["intervene", *sae, "--prompt", "A cat sat", "--edit", "7=2"],
        ["steer-generate", *sae, "--prompt", "A cat", "--feature", "7=2", "--max-new-tokens", "2"],
        ["describe-feature", *sae, "--feature", "7", "--neuronpedia"],
        ["describe-feature", "--sae", handle, "--feature", "7", "--neuronpedia"],
        ["find-features", *sae, "--query", "cats", "--neuronpedia"],
        ["quiz-feature", *sae, "--feature", "7"],
        ["label-feature", *sae, "--feature", "7", "--text", "cats"],
        ["index-features", *sae, "--dataset", "hf:owner/name"],
        ["index-features", *sae, "--n-tokens", "1000"],
        ["evaluate-sae", *sae, "--dataset", "hf:owner/name"],
        ["evaluate-sae", *sae, "--n-tokens", "1000"],
        [*train, "--dataset", "hf:owner/name"],
        [*train, *small, "--options", "logger=wandb"],
        ["results"],
        [*claim, "--direction", "raises", "--investigation", "none"],
        ["export-report", "--investigation", "none", "--path", "report"],
        ["publish-sae", "--sae", handle, "--repo-id", "owner/name"],
    ]


def outcomes(wanted: list[list[str]], environ: dict[str, str]) -> dict[str, tuple[int, str]]:
    """Status and output of each command, run one after the other in one process that reaches
    nothing."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=json.dumps(wanted),
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert reached(environ) == []
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(wanted)
    for words, _, out, crash in said:
        assert not crash and "Usage:" not in out and "INTERNAL" not in out, (words, out, crash)
    return {" ".join(words): (status, out) for words, status, out, _ in said}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_command_and_no_tool_uses_the_network(
    audited: dict[str, str], sae_dir: Path, glass_dir: Path
) -> None:
    wanted = commands(sae_dir, glass_dir)
    named = set(typer.main.get_group(app).commands)
    assert {words[0] for words in wanted} == named - {"serve", "view", "warm"}
    assert {tool.name.replace("_", "-") for tool in ALL_TOOLS} < named
    done = outcomes(wanted, audited)
    check_refusals(done)
    # The workers of both jobs were watched too; logger=wandb without a login is refused before it
    # has one.
    assert len(Path(audited["AUDIT_LOG"] + ".watched").read_text().split()) >= 3


def check_refusals(done: dict[str, tuple[int, str]]) -> None:
    """What fetches says that it may not."""
    assert "not asked: SAESCOPE_OFFLINE is set" in done["doctor"][1]
    assert done["demo"][0] == 1 and "The demo cannot continue" in done["demo"][1]
    assert done["find-saes --query gpt2"][0] == 0
    fetching = [done[" ".join(words)] for words in FETCHING if words[0] == "load-sae"]
    assert all(status == 1 and "OFFLINE" in out for status, out in fetching), fetching


@pytest.mark.slow
@pytest.mark.parametrize("loads", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_server_uses_no_network(audited: dict[str, str], loads: bool) -> None:
    messages = MESSAGES if loads else MESSAGES[:-1]
    lines: list[dict[str, Any]] = [{"jsonrpc": "2.0", **message} for message in messages]
    process = subprocess.Popen(
        [sys.executable, "-m", "saescope_mcp"],
        env=audited,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin and process.stdout
        process.stdin.write("".join(json.dumps(line) + "\n" for line in lines))
        process.stdin.flush()
        answered = [json.loads(process.stdout.readline()) for _ in lines[1:]]
        process.stdin.close()
    results = {answer["id"]: answer["result"] for answer in answered}
    assert results[4]["contents"]
    if loads:
        refused = results[5]
        assert refused["isError"] and "OFFLINE" in refused["structuredContent"]["code"]
    assert reached(audited) == []


def test_the_audit_itself_hears_a_connection(audited: dict[str, str]) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    subprocess.run([sys.executable, "-c", code], env=audited, capture_output=True, check=False)
    assert "192.0.2.1" in "".join(reached(audited))
