"""What documents name of the embedded SAE comes from one generated file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from saescope.embedded import landmarks
from saescope.load import peek_sae

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "skill").rglob("*.md"), *(ROOT / "docs").glob("*.md")]
ANY_FEATURE = 1234
"""What documents write for a feature of the reader's own SAE."""


def test_the_landmarks_are_those_of_the_sae_that_ships() -> None:
    here, info = landmarks(), peek_sae()
    assert (here["d_sae"], here["hook_name"]) == (info.cfg.d_sae, info.cfg.metadata.hook_name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_feature_that_a_page_gives_to_the_command_line_is_a_landmark(page: Path) -> None:
    named = re.findall(r"--feature (\d{3,})", page.read_text(encoding="utf-8"))
    assert {int(number) for number in named} <= {landmarks()["female"], ANY_FEATURE}


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.model
@pytest.mark.timeout(600)
def test_the_landmarks_are_what_the_model_and_the_sae_give() -> None:
    command = [sys.executable, str(ROOT / "scripts/build_embedded_landmarks.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
