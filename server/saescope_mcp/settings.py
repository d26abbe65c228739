"""Every limit and default of the server in one frozen model; `SAESCOPE_<NAME>` in the environment
changes one."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from saescope.errors import ConfigError
from saescope.fence import is_kept_by_programs, is_system_folder, resolve
from saescope_mcp.groups import SETTING, Offer

PREFIX = "SAESCOPE_"
LOG_LEVEL = "SAESCOPE_LOG_LEVEL"
TOKEN = "SAESCOPE_TOKEN"
LEAST_TOKEN = 16
"""Characters of a bearer token: what is shorter can be guessed."""
ELSEWHERE = {
    "SAESCOPE_HOME": "Folder of models, indexes, labels and jobs. Default: the system's for data.",
    LOG_LEVEL: "DEBUG, INFO, WARNING or ERROR; the log goes to stderr.",
    TOKEN: f"The bearer token that HTTP asks for, {LEAST_TOKEN} characters at least. Without it "
    "HTTP is for this machine only.",
}
"""Read by the core, by the log and by `saescope serve --http`; a token stands in no settings that
are shown."""
OF_THE_COMMAND_LINE = frozenset({"read_anywhere", "label_source"})
"""For commands that a person types: no variable of a server that is offered to users."""


ROOTS = ("read_roots", "write_roots")


def _home_and_here() -> tuple[Path, ...]:
    return _roots("~", ".")


def _here() -> tuple[Path, ...]:
    return _roots(".")


def _roots(*folders: str) -> tuple[Path, ...]:
    """Desktop clients start servers in "/" or among their own settings, and a service's home may be
    a system folder: those are left out."""
    return tuple(
        dict.fromkeys(
            place
            for place in map(resolve, folders)
            if not is_system_folder(place) and not is_kept_by_programs(place)
        )
    )


class Settings(BaseModel):
    """Limits are checked before work starts; the error that one causes names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    read_roots: tuple[Path, ...] = Field(default_factory=_home_and_here)
    """Folders below which tools may read, hidden folders excepted; separated as in PATH. Default:
    the home folder and the working folder."""
    write_roots: tuple[Path, ...] = Field(default_factory=_here)
    """Folders below which publish_sae and export_report may make one; separated as in PATH.
    Default: the working folder."""
    read_anywhere: bool = False
    """The command line: a person typed the path. Writes anywhere, too."""
    tools: str = "default"
    """The tools that clients are offered: groups and tools, separated by commas; "-train" takes a
    group away, "all" is every tool. The command line always has all."""
    view: bool = False
    """Show the window in a browser on this machine; server_status says how to open it."""
    offline: bool = False
    """Never use the network."""
    allow_pickle: bool = False
    """Convert an SAE's .pt file to safetensors, in a confined process, the first time that it is
    loaded."""

    max_models: int = Field(default=16, ge=1)
    """Models in memory at once: a guard, for the bound is memory_share."""
    max_saes: int = Field(default=16, ge=1)
    """SAEs in memory at once: a guard, as max_models."""
    check_set_bytes: int = Field(default=2**32, ge=0)
    """Sets with more bytes on disk are checked at some layers alone: the check reads what it
    measures."""
    memory_share: float = Field(default=0.6, gt=0, le=1)
    """Share of the machine's memory that models and SAEs may fill."""

    max_message_bytes: int = Field(default=2**23, ge=1024)
    """The most bytes of one JSON-RPC message."""
    sink_factor: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    """Times the typical norm at a site beyond which a position is left out as an attention sink; 0:
    none is."""
    max_prompt_chars: int = Field(default=2**18, ge=1)
    """Characters of one text."""
    max_id_chars: int = Field(default=256, ge=1)
    """Characters of a name, a handle or a pattern."""
    max_path_chars: int = Field(default=4096, ge=1)
    """Characters of a path."""
    max_tokens: int = Field(default=1024, ge=1)
    """Tokens of one text that is read in one pass, on a CPU; a GPU takes twice as many."""
    max_long_tokens: int = Field(default=4096, ge=1)
    """Tokens of one text of encode_text, top_features and steer_generate, which read in chunks, on
    a CPU; a GPU takes eight times as many."""
    max_tokens_per_call: int = Field(default=8192, ge=1)
    """Tokens of all texts of a call on a CPU; a GPU takes four times as many."""
    max_texts: int = Field(default=16, ge=1)
    """Texts of a call."""
    max_prompts: int = Field(default=64, ge=1)
    """Prompts of one intervention."""
    max_file_texts: int = Field(default=10_000, ge=1)
    """Texts that texts_file or against_file may hold."""
    max_file_tokens: int = Field(default=2**19, ge=1)
    """Tokens of all texts of a call that reads them from files, and of all that they are contrasted
    with."""
    max_positions: int = Field(default=256, ge=1)
    """Positions that a call names."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Tokens that a call generates for one text."""
    max_samples: int = Field(default=4, ge=1)
    """Continuations of one prompt."""
    max_strengths: int = Field(default=8, ge=1)
    """Strengths of one steering."""
    max_controls: int = Field(default=20, ge=0)
    """Random controls of a call."""
    max_top_k: int = Field(default=10, ge=1)
    """Features listed for each token."""
    max_k: int = Field(default=100, ge=1)
    """Rows of a list."""
    max_targets: int = Field(default=16, ge=1)
    """Tokens that one circuit explains."""
    max_other_prompts: int = Field(default=8, ge=1)
    """Further prompts of a circuit."""
    max_groups: int = Field(default=64, ge=1)
    """Groups of a circuit's nodes."""
    max_traced_features: int = Field(default=20_000, ge=1)
    """Features of a circuit whose sources are computed, and nodes that are measured."""
    max_named_features: int = Field(default=16, ge=1)
    """Features that one call reads or describes by their index."""
    max_edits: int = Field(default=16, ge=1)
    """Edits of one intervention or steering."""
    max_strength: float = Field(default=1000.0, gt=0)
    """The strength of an edit, of either sign."""
    max_concept_tokens: int = Field(default=64, ge=1)
    """Tokens that stand for a concept."""
    max_result_tokens: int = Field(default=6000, ge=500)
    """Tokens of one reply, each counted as three UTF-8 bytes."""

    ledger: bool = True
    """Keep results on this machine, below SAESCOPE_HOME, so that they can be brought back by their
    result_id."""
    max_ledger_bytes: int = Field(default=2**27, ge=2**20)
    """Bytes of all kept results; then the oldest go."""
    max_ledger_days: int = Field(default=365, ge=1)
    """Days after which a result that was not seen again goes, unless an investigation names it."""
    max_noted: int = Field(default=100, ge=1)
    """Results that one call puts into an investigation or rests on."""

    max_queue: int = Field(default=32, ge=0)
    """Calls that may wait for one model."""
    lock_wait_s: float = Field(default=30.0, gt=0)
    """How long a call waits for a model that is at work, before it is refused as BUSY."""
    cancel_grace_s: float = Field(default=0.5, ge=0)
    """How long a cancelled call waits for its work to stop before it lets go."""
    threads: int = Field(default=4, ge=1)
    """Threads for the work of calls, and as many for loads."""
    max_wait_s: float = Field(default=55.0, ge=0)
    """How long a call may wait for a job; clients often give up after 60 s."""
    keep_jobs: int = Field(default=50, ge=1)
    """Ended loads, evaluations and generations whose results are kept."""

    max_examples: int = Field(default=30, ge=0)
    """Examples of one feature."""
    max_group_texts: int = Field(default=64, ge=1)
    """Texts of each of two groups that are told apart."""
    max_answers: int = Field(default=40, ge=1)
    """Items of one quiz."""
    label_source: Literal["agent", "you"] = "agent"
    """Who labels features here."""

    max_queued_jobs: int = Field(default=4, ge=0)
    """Trainings and indexings that may wait while one runs."""
    max_index_tokens: int = Field(default=10**9, ge=1)
    """Tokens of one index."""
    max_training_tokens: int = Field(default=10**9, ge=1)
    """Tokens of one training."""
    max_batch_size: int = Field(default=65536, ge=1)
    """Tokens of one training step."""
    max_options: int = Field(default=40, ge=1)
    """Options of one training."""
    max_evaluation_tokens: int = Field(default=10**6, ge=1)
    """Tokens of one evaluation."""
    plan_wait_s: float = Field(default=45.0, ge=0)
    """How long train_sae waits for its plan where the call does not say how long."""

    @field_validator(*ROOTS)
    @classmethod
    def _no_system_folder(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if is_system_folder(resolve(root)):
                raise ValueError(
                    f"{root} is a system folder or holds everything: name a folder of yours"
                )
        return roots

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings: defaults, changed by `SAESCOPE_<NAME>`.

        Raises:
            ConfigError: a value cannot be read; the message names the variable.
        """
        stated = {
            name: environ[PREFIX + name.upper()]
            for name in cls.model_fields
            if environ.get(PREFIX + name.upper())
        }
        values: dict[str, object] = dict(stated)
        for name in set(ROOTS) & set(stated):
            values[name] = tuple(
                Path(part).expanduser() for part in stated[name].split(os.pathsep) if part
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            variable = PREFIX + str(first["loc"][0]).upper()
            why = first["msg"].removeprefix("Value error, ")
            raise _wrong(variable, why, first["input"]) from None


def log_level(environ: Mapping[str, str] = os.environ) -> str:
    """How much the server's log says.

    Raises:
        ConfigError: there is no such level.
    """
    level = (environ.get(LOG_LEVEL) or "WARNING").upper()
    if level not in logging.getLevelNamesMapping():
        raise _wrong(LOG_LEVEL, "there are DEBUG, INFO, WARNING and ERROR", level)
    return level


def http_token(environ: Mapping[str, str] = os.environ) -> str:
    """What requests over HTTP have to bear; empty: nothing.

    Raises:
        ConfigError: it can be guessed, or cannot be sent in a header.
    """
    token = environ.get(TOKEN, "")
    if token and not re.fullmatch(rf"[\x21-\x7e]{{{LEAST_TOKEN},}}", token):
        why = f"at least {LEAST_TOKEN} letters, digits and signs of ASCII, without spaces"
        raise _wrong(TOKEN, why, f"{len(token)} characters")
    return token


def offered(setting: str, groups: Mapping[str, str]) -> Offer:
    """The tools that the setting offers, of those of these groups.

    Raises:
        ConfigError: it names what is not there.
    """
    try:
        return Offer.chosen(setting, groups)
    except ValueError as error:
        raise _wrong(SETTING, str(error).removesuffix("."), setting) from None


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """`SAESCOPE_` variables that set nothing: most likely misspelt."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {*ELSEWHERE}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def _wrong(variable: str, why: str, got: object) -> ConfigError:
    return ConfigError(
        f"{variable}: {why}.", field=variable, got=got, hint=f"Correct or unset {variable}."
    )
