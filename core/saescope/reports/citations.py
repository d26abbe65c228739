"""Whom a report cites: the model, the SAEs, the methods and saescope, as BibTeX."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from saescope.ledger import KeptEntry
from saescope.reports.sources import SAESource
from saescope.reports.versions import installed


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper, or what stands in the place of one."""

    key: str
    authors: str
    title: str
    year: int
    where: str
    """An arXiv number, or an address."""


_WORKS: Mapping[str, Paper] = {
    work.key: work
    for work in (
        Paper(
            "smollm2",
            "Ben Allal, Loubna and others",
            "SmolLM2: When Smol Goes Big",
            2025,
            "2502.02737",
        ),
        Paper(
            "gpt2",
            "Radford, Alec and others",
            "Language Models are Unsupervised Multitask Learners",
            2019,
            "https://openai.com/research/better-language-models",
        ),
        Paper(
            "gemma2",
            "{Gemma Team}",
            "Gemma 2: Improving Open Language Models at a Practical Size",
            2024,
            "2408.00118",
        ),
        Paper("gemma3", "{Gemma Team}", "Gemma 3 Technical Report", 2025, "2503.19786"),
        Paper(
            "llama3",
            "Grattafiori, Aaron and others",
            "The Llama 3 Herd of Models",
            2024,
            "2407.21783",
        ),
        Paper(
            "pythia",
            "Biderman, Stella and others",
            "Pythia: A Suite for Analyzing Large Language Models Across Training and Scaling",
            2023,
            "2304.01373",
        ),
        Paper("qwen3", "{Qwen Team}", "Qwen3 Technical Report", 2025, "2505.09388"),
        Paper(
            "gemmascope",
            "Lieberum, Tom and others",
            "Gemma Scope: Open Sparse Autoencoders Everywhere All At Once on Gemma 2",
            2024,
            "2408.05147",
        ),
        Paper(
            "llamascope",
            "He, Zhengfu and others",
            "Llama Scope: Extracting Millions of Features from Llama-3.1-8B with Sparse "
            "Autoencoders",
            2024,
            "2410.20526",
        ),
        Paper(
            "gao2024",
            "Gao, Leo and others",
            "Scaling and evaluating sparse autoencoders",
            2024,
            "2406.04093",
        ),
        Paper(
            "cunningham2023",
            "Cunningham, Hoagy and others",
            "Sparse Autoencoders Find Highly Interpretable Features in Language Models",
            2023,
            "2309.08600",
        ),
        Paper(
            "marks2024",
            "Marks, Samuel and others",
            "Sparse Feature Circuits: Discovering and Editing Interpretable Causal Graphs in "
            "Language Models",
            2024,
            "2403.19647",
        ),
        Paper(
            "syed2023",
            "Syed, Aaquib and Rager, Can and Conmy, Arthur",
            "Attribution Patching Outperforms Automated Circuit Discovery",
            2023,
            "2310.10348",
        ),
        Paper(
            "sundararajan2017",
            "Sundararajan, Mukund and Taly, Ankur and Yan, Qiqi",
            "Axiomatic Attribution for Deep Networks",
            2017,
            "1703.01365",
        ),
        Paper(
            "templeton2024",
            "Templeton, Adly and others",
            "Scaling Monosemanticity",
            2024,
            "https://transformer-circuits.pub/2024/scaling-monosemanticity",
        ),
        Paper(
            "ameisen2025",
            "Ameisen, Emmanuel and others",
            "Circuit Tracing: Revealing Computational Graphs in Language Models",
            2025,
            "https://transformer-circuits.pub/2025/attribution-graphs/methods.html",
        ),
        Paper(
            "karvonen2025",
            "Karvonen, Adam and others",
            "SAEBench: A Comprehensive Benchmark for Sparse Autoencoders",
            2025,
            "2503.09532",
        ),
        Paper(
            "sun2024",
            "Sun, Mingjie and others",
            "Massive Activations in Large Language Models",
            2024,
            "2402.17762",
        ),
        Paper(
            "paulo2024",
            "Paulo, Goncalo and others",
            "Automatically Interpreting Millions of Features in Large Language Models",
            2024,
            "2410.13928",
        ),
        Paper(
            "westfall1993",
            "Westfall, Peter H. and Young, S. Stanley",
            "Resampling-Based Multiple Testing",
            1993,
            "",
        ),
    )
}
_METHODS: Mapping[str, tuple[str, ...]] = {
    "attribute_logit": ("syed2023", "marks2024"),
    "compare_prompts": ("syed2023", "marks2024"),
    "evaluate_sae": ("karvonen2025", "gao2024"),
    "find_features": ("westfall1993",),
    "intervene": ("marks2024",),
    "label_feature": ("paulo2024",),
    "quiz_feature": ("paulo2024",),
    "steer_generate": ("templeton2024",),
    "steer_search": ("templeton2024",),
    "trace_circuit": ("ameisen2025", "marks2024"),
    "train_sae": ("gao2024",),
}
_NAMES: Sequence[tuple[str, str]] = (
    *((r"smollm2", "smollm2"), (r"gpt-?2", "gpt2"), (r"gemma-?2", "gemma2")),
    *((r"gemma-?3", "gemma3"), (r"llama-?3", "llama3"), (r"pythia", "pythia")),
    *((r"qwen-?3", "qwen3"), (r"gemma-?scope", "gemmascope"), (r"llama-?scope", "llamascope")),
)
"""Whose paper a model or a release is of, by its name."""


def bibtex(entries: Sequence[KeptEntry], sources: Mapping[str, SAESource]) -> str:
    """The references of results."""
    keys = dict.fromkeys(["cunningham2023", "sun2024"])
    for entry in entries:
        keys |= dict.fromkeys(_METHODS.get(entry.tool, ()))
        if entry.arguments.get("method") == "integrated_gradients":
            keys["sundararajan2017"] = None
    origins = [origin for entry in entries if (origin := entry.document.get("provenance"))]
    names = dict.fromkeys(origin["model"] for origin in origins)
    releases = dict.fromkeys(source.release for source in sources.values() if source.release)
    own = list[str]()
    for name in [*names, *releases]:
        if known := [key for pattern, key in _NAMES if re.search(pattern, name.lower())]:
            keys |= dict.fromkeys(known)
        else:
            own.append(_named(name))
    works = [_entry(_WORKS[key]) for key in keys]
    return "\n\n".join([_ours(), *works, *own, *_of_files(sources)])


def _ours() -> str:
    return _written(
        "software",
        "saescope",
        {
            "author": "{the saescope contributors}",
            "title": "saescope: tools, command line and library for sparse autoencoders",
            "version": installed("saescope"),
            "url": "https://github.com/saescope/saescope",
        },
    )


def _entry(work: Paper) -> str:
    fields = {"author": work.authors, "title": f"{{{work.title}}}", "year": f"{work.year}"}
    if work.where.startswith("http"):
        fields["url"] = work.where
    elif work.where:
        fields |= {"eprint": work.where, "archivePrefix": "arXiv"}
    return _written("misc", work.key, fields)


def _named(name: str) -> str:
    """A model or a release of which no paper is known here."""
    fields = {"title": f"{{{_safe(name)}}}"}
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        fields["url"] = f"https://huggingface.co/{name}"
    else:
        fields["note"] = "named so by the files that it was loaded from"
    return _written("misc", _key(name), fields)


def _of_files(sources: Mapping[str, SAESource]) -> Iterable[str]:
    """SAEs of this machine's own files."""
    for handle, source in sources.items():
        if source.path:
            fields = {"title": f"{{SAE {_safe(handle)}}}", "note": "local files"}
            yield _written("misc", _key(handle), fields)


def _key(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:60] or "unnamed"


def _safe(name: str) -> str:
    return re.sub(r"([&%$#_])", r"\\\1", re.sub(r"[{}\\\n]", " ", name))


def _written(kind: str, key: str, fields: Mapping[str, str]) -> str:
    rows = "".join(f"  {name:<13} = {{{value}}},\n" for name, value in fields.items())
    return f"@{kind}{{{key},\n{rows}}}"
