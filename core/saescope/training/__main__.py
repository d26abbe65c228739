"""The command that torchrun starts on every rank: `torchrun -m saescope.training FOLDER`."""

import sys

from saescope.training.launched import main

sys.exit(main(sys.argv[1:]))
