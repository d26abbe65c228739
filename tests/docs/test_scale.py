"""The page on many machines: its code runs, and its numbers are those of its script."""

import re
from pathlib import Path
from typing import Any

import torch

import saescope as ss
from saescope.models import LanguageModel

PAGE = Path(__file__).parents[2] / "docs/scale.md"
_CODE = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def test_its_code_runs_in_the_order_of_the_page(glass: LanguageModel, tmp_path: Path) -> None:
    names: dict[str, Any] = {"ss": ss, "model": glass, "folder": f"memory://{tmp_path.name}/acts"}
    for code in _CODE.findall(PAGE.read_text(encoding="utf-8")):
        exec(compile(code, str(PAGE), "exec"), names)
    assert names["whole"] is True
    assert names["source"].n_rows >= 2000
    assert names["batch"].shape[1] == 128 and bool(torch.isfinite(names["batch"]).all())
