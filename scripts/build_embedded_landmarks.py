"""The numbers of the embedded SAE that documents, tests and the agent evaluation name, from the SAE
itself.

    python scripts/build_embedded_landmarks.py [--check]

Writes `core/saescope/_embedded/landmarks.json`, the feature number in README.md and
docs/ten_minutes.md; --check only says whether they are what the SAE gives. Run it whenever the
embedded SAE changes.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import embedded_story

import saescope as ss
from saescope.embedded import EMBEDDED_SAE_DIR

ROOT = Path(__file__).parents[1]
FILE = EMBEDDED_SAE_DIR.parent / "landmarks.json"
PROMPT = "My sister lost her keys and called our mother because"
IN_README = re.compile(r"(?<=describe-feature --feature )\d+")


def measured() -> dict[str, Any]:
    """The feature on which " she" rather than " he" rests most after PROMPT, by ablation, and what
    the check of a load says."""
    model, sae = ss.load_model(), ss.load_sae()
    tokens = model.tokenize(PROMPT, prepend_bos=sae.cfg.metadata.prepend_bos)
    told = ss.attribute(model, sae, tokens, target=" she", against=" he", k=6)
    best = max(told.features, key=lambda row: row.measured_effect or 0.0)
    check = ss.check_sae(model, sae)
    return {
        "weights_hash": sae.weights_hash,
        "hook_name": sae.cfg.metadata.hook_name,
        "d_sae": sae.cfg.d_sae,
        "prompt": PROMPT,
        "female": best.feature,
        "check": {
            "l0": round(check.l0, 1),
            "explained_variance": round(check.explained_variance or 0.0, 2),
            "ce_score": round(check.ce_score or 0.0, 2),
        },
        "story": embedded_story.story(model, sae, prompt=PROMPT, told=told, feature=best.feature),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    text = json.dumps(landmarks := measured(), indent=2, ensure_ascii=False) + "\n"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    followed = IN_README.sub(str(landmarks["female"]), readme)
    told = embedded_story.page(landmarks)
    files = {FILE: text, ROOT / "README.md": followed, embedded_story.PAGE: told}
    old = [path.name for path, now in files.items() if _text(path) != now]
    if asked.check:
        print(f"Out of date: {', '.join(old)}." if old else "Up to date.")
        return bool(old)
    for path, now in files.items():
        path.write_text(now, encoding="utf-8")
    print(f"Changed: {', '.join(old) or 'nothing'}.")
    return 0


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
