"""Steer with one feature at several strengths, and print the texts with the change of the concept's
log-probability (nats) and its rank p among 19 random features.

    python sweep_strengths.py --feature 1234 --prompt "I went to the window and saw" --strengths
    0.25 0.5 1 2

Without --release or --path: the embedded SAE. Needs saescope. Ends with 1, and a line that says
what to do, if something is wrong.
"""

import argparse
import sys


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
    parser.add_argument(
        "--concept", nargs="*", default=[], help='tokens to judge by, leading space kept: " sea"'
    )
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
    concept = [model.single_token(text) for text in said.concept]
    table = ss.sweep(
        model,
        sae,
        [tokens],
        [ss.FeatureEdit(feature=said.feature, mode=said.mode)],
        strengths=said.strengths,
        reference=ss.check_sae(model, sae).acts,
        concept_tokens=concept,
        max_new_tokens=said.tokens,
    )
    print("strength  concept        p  perplexity  repetition  verdict and text")
    metrics = table.baseline.metrics
    plain = [None, None, metrics.perplexity, metrics.repetition]
    print(row("none", plain, table.baseline.text))
    for each in table.rows:
        cells = [each.concept_logprob, each.p, each.perplexity, each.repetition]
        print(row(f"{each.strength:g}", cells, f"{each.verdict}: {each.text}"))
    print(
        f"unit: {table.unit_values[0]:.4g} ({table.unit_source}); concept tokens: "
        f"{', '.join(map(repr, table.concept_tokens[:8]))}"
    )


def row(label, cells, text):
    return (
        f"{label:>8}  "
        + "  ".join(f"{'-' if cell is None else f'{cell:.3g}':>9}" for cell in cells)
        + f"  {text.strip()!r}"
    )


if __name__ == "__main__":
    sys.exit(main())
