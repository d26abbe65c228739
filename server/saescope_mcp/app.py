"""`build_server(settings)`: the only module that knows every tool. Imports no torch."""

import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from saescope import __version__
from saescope_mcp.resources import apps, serve_pages
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.tool import Server, Tool, bind
from saescope_mcp.tools import attribute, describe, evaluate, find, index, load, publish, quiz, read, runs, search, status, steer, train

ALL_TOOLS: tuple[Tool, ...] = (
    *find.TOOLS,
    *load.TOOLS,
    *status.TOOLS,
    *read.TOOLS,
    *attribute.TOOLS,
    *steer.TOOLS,
    *index.TOOLS,
    *describe.TOOLS,
    *search.TOOLS,
    *quiz.TOOLS,
    *train.TOOLS,
    *runs.TOOLS,
    *evaluate.TOOLS,
    *publish.TOOLS,
)

INSTRUCTIONS = """\
Use these tools to look inside a language model with sparse autoencoders (SAEs): which features fire on a text, what a prediction \
rests on, what a feature does when changed. Everything runs on this machine.
1. load_sae() returns a handle `sae`; without arguments it loads a small embedded model (first time: a 93 MB download). find_saes \
lists published ones by model, layer and site. Read check.verdict.
2. top_features or encode_text: what fires. attribute_logit: why a token is predicted. intervene, steer_generate: test it.
describe_feature: what a feature is (after index_features, once). find_features: which feature. A name: quiz_feature, then label_feature.
3. Report evidence as the result does: observed < correlational < intervened < controlled. Say "causes" only at the last two, and compare \
with the controls. error_share is what the SAE does not see. A label without a score is a guess.
A feature is an index of one SAE: it means nothing in another. Handles stay the same after a restart; an error names the exact next call. \
Calls on one model run one after the other (BUSY after 30 s of waiting). What takes longer than wait_s returns a job_id: call job_status.
To train: train_sae with dry_run=true, show the plan and ask; then train_sae, job_status, load_sae, evaluate_sae; publish_sae if wanted.\
"""


def build_server(settings: Settings | None = None, state: AppState | None = None) -> Server:
    """The server with every tool, and a state of its own unless one is given."""
    state = state or AppState(settings or Settings())
    log_to_stderr()

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[AppState]:
        try:
            yield state
        finally:
            state.close()

    server = Server(
        "sae",
        title="saescope",
        version=__version__,
        instructions=INSTRUCTIONS,
        lifespan=lifespan,
        tools=[bind(tool, state) for tool in ALL_TOOLS],
        extensions=[apps()],
        log_level="WARNING",
    )
    serve_pages(server, state)
    return server


def log_to_stderr() -> None:
    """Plain lines, before the SDK puts a slow, colourful handler in place."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
