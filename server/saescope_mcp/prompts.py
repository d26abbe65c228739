"""Ready-made investigations: what a person picks from a menu, written out as the steps that an
agent takes with the tools."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

from pydantic import Field

from saescope_mcp.binding import next_call

Handle = Annotated[str, Field(description="Handle of a loaded SAE; empty: the embedded default.")]


class ReadyPrompt(NamedTuple):
    """A function from the user's words to a message; its docstring is the description."""

    function: Callable[..., str]
    title: str


def explain_prediction(
    prompt: Annotated[
        str, Field(description='Text that the model continues, e.g. "The capital of France is".')
    ],
    target: Annotated[
        str,
        Field(
            description='Token to explain, leading space kept, e.g. " Paris"; empty: the most '
            "likely one."
        ),
    ] = "",
    against: Annotated[str, Field(description='Token to compare with, e.g. " London".')] = "",
    sae: Handle = "",
) -> str:
    """Find the features behind a predicted token, and check them by ablation."""
    given = {name: value for name, value in (("target", target), ("against", against)) if value}
    same: dict[str, object] = {"sae": sae or "HANDLE", "prompt": prompt, **given}
    explain = next_call("attribute_logit", **same, sign="positive")
    test = next_call("intervene", **same, edits=[{"feature": 0, "mode": "ablate"}])
    return f"""Explain why the model predicts \
{f"{target!r}" if target else "its most likely token"} after this text: {prompt!r}.
1. {_load(sae)}
2. Call {explain}. \
Is the target what the model really predicts (rank, prob)? If not, say so first.
3. Start from measured_effect and joint, with their controls. Where agreement is low or \
error_share is high, say that this SAE does not explain the prediction, and stop there.
4. Call top_features for the two or three strongest features on other texts: what else do they \
fire on?
5. Test the strongest: {test} \
with its index in place of 0, and compare effect with control.
{_REPORT}"""


def trace_a_circuit(
    prompt: Annotated[
        str, Field(description='Text that the model continues, e.g. "The capital of France is".')
    ],
    target: Annotated[
        str, Field(description="Token to explain, leading space kept; empty: the likely ones.")
    ] = "",
    against: Annotated[str, Field(description='Token to compare with, e.g. " London".')] = "",
    sae: Annotated[str, Field(description="Handle of a loaded set, or SAE; empty: load one.")] = "",
) -> str:
    """Find through which features a prediction comes about, and what of that was proved."""
    given: dict[str, object] = {"targets": [target]} if target else {}
    given |= {"against": against} if against else {}
    same: dict[str, object] = {"sae": sae or "HANDLE", "prompt": prompt, **given}
    load = (
        _load(sae)
        if sae
        else 'Load SAEs of several layers: load_sae(path="...", layers="all") for a set of '
        "transcoders or SAEs (find_saes lists published ones). One SAE, load_sae(), gives one "
        "step. Use the handle as HANDLE."
    )
    edits = [{"sae": "MEMBER", "feature": 0, "mode": "ablate", "positions": [0]}]
    return f"""Explain through which steps the model comes to \
{f"{target!r}" if target else "its most likely token"} after this text: {prompt!r}.
1. {load}
2. Call {next_call("trace_circuit", **same)}. If it returns a job_id: job_status(job_id="...", \
wait_s=30).
3. Before any path, say how much ends in errors (scores.replacement). Below 0.5 say that the graph \
explains the smaller part, and stop at what is confirmed.
4. Read the paths in reading: "*" was confirmed by ablation, "!" was refuted, and no mark was not \
measured. Name features only after describe_feature(sae="MEMBER", feature=0) says the same; \
MEMBER is the handle in saes of the node's layer.
5. Test the main step together: {next_call("intervene", prompt=prompt, edits=edits)} with its \
nodes, and compare effect with control.
6. The same call with other_prompts=["..."], two paraphrases: which edges hold?
{_REPORT}"""


def test_concept(
    concept: Annotated[
        str, Field(description='What to look for, e.g. "sarcasm" or "French text".')
    ],
    sae: Handle = "",
) -> str:
    """Find features of a concept, and test on new texts and by steering whether they are that."""
    return f"""Find out whether the model has a feature for this concept, and test it: {concept!r}.
1. {_load(sae)}
2. Write thirty short texts with the concept and thirty like them without it: same length, same \
topics, same style.
3. Call find_features(sae="{sae or "HANDLE"}", texts=[with], against=[without]): features are \
chosen on one half of the texts and tested on the other. Keep rows that are confirmed. Distrust \
features that are dense, that fire on one word only, or that follow length.
4. For the best two or three: describe_feature(sae="{sae or "HANDLE"}", feature=0) with the index \
in place of 0. Do other texts say the same? Then quiz_feature, answer its items from your idea of \
the feature alone, and label_feature with the quiz_id: balanced_accuracy is the test.
5. Steer with the best one: steer_generate(sae="{sae or "HANDLE"}", prompt="...", \
features=[{{"feature": 0}}], strengths=[0.5, 1, 2], concept_tokens=[" word"]) with its index in \
place of 0 and tokens of the concept. Report concept_logprob with p; broken text proves nothing.
6. "No such feature in this SAE" is a result: say so rather than keep the least bad one.
{_REPORT}"""


def judge_sae(sae: Handle = "") -> str:
    """Measure how far an SAE can be trusted, with baselines."""
    return f"""Judge this SAE: {sae or "the embedded default"}.
1. {_load(sae)}
2. Read check: is the SAE on the tensor that it was trained on, and is its L0 near the published \
one? If the verdict is "wrong", stop.
3. Call evaluate_sae(sae="{sae or "HANDLE"}"). It may return a job_id: then \
job_status(job_id="...", wait_s=30).
4. Report ce_score, explained_variance, l0, dead_share and dense_share with the baselines (a \
random SAE, PCA of the same rank), and the verdict with its reasons. An SAE that is no better than \
its baselines is not good, whatever its loss.
5. Say for what it is good enough (reading features, explaining predictions, steering) and for \
what it is not.
{_REPORT}"""


def train_an_sae(
    model: Annotated[
        str,
        Field(
            description='Model to look into: a hub name or a local folder, e.g. "gpt2"; empty: the '
            "embedded one."
        ),
    ] = "",
    dataset: Annotated[
        str,
        Field(
            description='Text: a local file or folder, or "hf:owner/name"; empty: the embedded '
            "sample."
        ),
    ] = "",
    hook_name: Annotated[
        str, Field(description='Site, e.g. "blocks.8.hook_resid_pre"; empty: choose one.')
    ] = "",
) -> str:
    """Plan, train and judge an SAE on your own model and text."""
    arguments = {
        name: value
        for name, value in (("model", model), ("hook_name", hook_name), ("dataset", dataset))
        if value
    }
    site = (
        ""
        if hook_name
        else " Choose the residual stream in the middle of the model unless I say otherwise."
    )
    return f"""Train an \
SAE{f" on {model}" if model else ""}{f" with the text in {dataset}" if dataset else ""}.{site}
1. Plan first: {next_call("train_sae", **arguments, dry_run=True)}. Show me time, memory, disk and \
every warning, then ask before you start.
2. After my yes: the same call without dry_run. Note the job_id.
3. Follow it with job_status(job_id="...", wait_s=30), not more often than needed. Loss should \
fall, l0 approach its target, dead_share stay under 5 %. Interrupted or failed: \
train_sae(resume="...") continues from the last checkpoint.
4. When it is done: the load_sae call in next, then evaluate_sae(sae="..."), with its baselines.
5. Look at ten features with top_features on my kind of text, and say what they seem to be.
6. Publish nothing unless I ask: publish_sae is a dry run by default.
{_REPORT}"""


_REPORT = """Report: handle, feature indices, numbers with their controls, result_id, and what \
was left out. Claim no more than the evidence field allows; "causes" needs intervened or \
controlled."""

PROMPTS = [
    ReadyPrompt(explain_prediction, "Explain a prediction"),
    ReadyPrompt(trace_a_circuit, "Trace a circuit"),
    ReadyPrompt(test_concept, "Find and test a concept"),
    ReadyPrompt(judge_sae, "Judge an SAE"),
    ReadyPrompt(train_an_sae, "Train an SAE"),
]


def _load(sae: str) -> str:
    if sae:
        return (
            f'Use sae="{sae}"; if it is not loaded, the error names the load_sae call that '
            "loads it."
        )
    return "Call load_sae(), read what its check says, and use its handle as HANDLE."
