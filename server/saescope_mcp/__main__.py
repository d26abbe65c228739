"""`python -m saescope_mcp` is `saescope serve`; further words are passed on."""

import sys

from saescope_mcp.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
