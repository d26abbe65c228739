"""Steer with one feature at several strengths, and print the texts and their numbers beside
random-feature controls.

    python sweep_strengths.py --feature 1234 --prompt "I went to the window and saw" --strengths
    0.25 0.5 1 2

Without --release or --path: the embedded SAE. Needs saescope. Ends with 1, and a line that says
what to do, if something is wrong.
"""

import argparse
import sys
from statistics import mean


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--feature", type=int, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument(
        "--strengths",
        type=float,
        nargs="+",
        default=[0.25, 0.5, 1, 2],
        help="in units of the feature's typical activation",
    )
    parser.add_argument("--mode", default="add", help="add, clamp, scale, ablate or project_out")
    parser.add_argument("--tokens", type=int, default=32, help="tokens to generate")
    parser.add_argument("--controls", type=int, default=2, help="random features to compare with")
    parser.add_argument(
        "--model", default="", help="hub name or folder; default: the one that the SAE names"
    )
    parser.add_argument("--release", default="")
    parser.add_argument("--sae-id", default="")
    parser.add_argument("--path", default="")
    try:
        import saescope as ss
        from saescope.errors import SaescopeError
    except ImportError:
        sys.stderr.write(
            "saescope is not installed here: see https://github.com/saescope/saescope\n"
        )
        return 1
    said = parser.parse_args()
    try:
        sweep(ss, said)
    except SaescopeError as error:
        sys.stderr.write(f"{error.code}: {error} {error.hint}\n")
        return 1
    return 0


def sweep(ss, said):
    sae = ss.load_sae(said.path or None, release=said.release, sae_id=said.sae_id)
    name = said.model or (sae.cfg.metadata.model_name if said.release or said.path else "")
    model = ss.load_model(name) if name else ss.load_model()
    tokens = model.tokenize(said.prompt, prepend_bos=sae.cfg.metadata.prepend_bos)
    reference = ss.check_sae(model, sae).acts
    print("strength  concept  controls  perplexity  repetition  text")
    for strength in said.strengths:
        edit = ss.FeatureEdit(feature=said.feature, strength=strength, mode=said.mode)
        done = ss.steer(
            model,
            sae,
            tokens,
            [edit],
            reference=reference,
            max_new_tokens=said.tokens,
            n_controls=said.controls,
        )
        if strength == said.strengths[0]:
            print(row("none", done.baseline, []))
        print(row(f"{strength:g}", done.steered[0], done.controls))
        print(f"          {done.verdict}")
    print(
        f"unit: {done.unit_values[0]:.4g} ({done.unit_source}); concept tokens: "
        f"{', '.join(map(repr, done.concept_tokens[:8]))} ..."
    )


def row(label, arm, controls):
    scores = [each.concept_score for each in controls if each.concept_score is not None]
    cells = [arm.concept_score, mean(scores) if scores else None, arm.perplexity, arm.repetition]
    return (
        f"{label:>8}  "
        + "  ".join(f"{'-' if cell is None else f'{cell:.3g}':>9}" for cell in cells)
        + f"  {arm.text.strip()!r}"
    )


if __name__ == "__main__":
    sys.exit(main())
