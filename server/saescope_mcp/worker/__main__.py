"""The command that `Runs` starts."""

import sys

from saescope_mcp.worker.process import main

sys.exit(main(sys.argv[1:]))
