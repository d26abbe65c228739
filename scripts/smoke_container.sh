#!/bin/sh
# Does an image of saescope answer on stdio and on HTTP? sh scripts/smoke_container.sh [image]; needs docker and curl.
set -eu
image="${1:-saescope}"
port="${PORT:-8765}"
hello='{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"smoke","version":"1"}}}'

(echo "$hello"; sleep 20) | docker run --rm -i "$image" | head -n 1 | grep '"serverInfo"'
echo "stdio: ok"

# The server listens on loopback only, so the container shares the host's.
container="$(docker run --rm -d --network host "$image" serve --http --port "$port")"
trap 'docker stop "$container" > /dev/null' EXIT
curl --silent --show-error --fail --retry 30 --retry-delay 1 --retry-all-errors "http://127.0.0.1:$port/mcp" \
    -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' -d "$hello" | grep '"serverInfo"'
echo "HTTP: ok"
