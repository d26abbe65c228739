# Say what the set-up is about to download, and how to get less; `make` calls this before it installs.
if "$PY" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then
    echo "Updating the packages in the virtual environment."
    exit
fi
case "$(uname -s) $PIP_ARGS ${PIP_EXTRA_INDEX_URL:-} ${PIP_INDEX_URL:-}" in
Linux*whl/cpu* | Darwin* | MINGW* | MSYS* | CYGWIN*)
    echo "Setting up, once. To download: about 360 MB of packages, half of it torch (1.7 GB on disk)."
    ;;
*)
    cat <<'TEXT'
Setting up, once. To download: torch, and about 170 MB of other packages.
  On Linux, the torch of the Python package index is the CUDA build: 2.7 GB with NVIDIA's libraries (6 GB on disk).
  No NVIDIA GPU? The CPU build is 190 MB (1.7 GB on disk, all together). Press Ctrl-C and run instead:
    make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
TEXT
    ;;
esac
