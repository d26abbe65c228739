"""What lies on the desk when a task begins: a folder with a model, SAEs of which some are not what
they seem, and texts."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GLASS = ROOT / "tests" / "data" / "glassllm-en"
SAE = ROOT / "agent_evals" / "data" / "glass-l2"
"""A TopK SAE trained by `scripts/make_eval_sae.py`: 256 features on layer 2 of the tiny model."""


def lay_out(folder: Path, things: list[str], model: str) -> dict[str, str]:
    """Make each named thing below `folder`; the names that prompts and calls use for them."""
    if model == "embedded":
        from saescope.embedded import EMBEDDED_SAE_DIR, model_dir

        return {"folder": str(folder), "model": str(model_dir()), "good": str(EMBEDDED_SAE_DIR)}
    places = {"folder": str(folder), "model": str(shutil.copytree(GLASS, folder / GLASS.name))}
    for thing in things:
        places[thing] = str(_THINGS[thing](folder))
    return places


def _good(folder: Path) -> Path:
    return Path(shutil.copytree(SAE, folder / "stories"))


def _wrong_site(folder: Path) -> Path:
    """The good SAE, filed under another layer and stream."""
    return _changed(folder / "stories-l0", config={"hook_name": "blocks.0.hook_attn_out"})


def _other_model(folder: Path) -> Path:
    """An SAE that says that it was trained on a model which is not here."""
    return _changed(folder / "from-elsewhere", config={"model_name": "tiny-stories-1L-21M"})


def _random(folder: Path) -> Path:
    """Random directions in the clothes of a release."""
    import torch

    noise = torch.randn(256, 128, generator=torch.Generator().manual_seed(7))
    W_dec = noise / noise.norm(dim=-1, keepdim=True)
    zeros = {"b_enc": torch.zeros(256), "b_dec": torch.zeros(128)}
    return _changed(
        folder / "gold-release", tensors={"W_enc": W_dec.T.contiguous(), "W_dec": W_dec, **zeros}
    )


def _dense(folder: Path) -> Path:
    """Feature 9 fires on every token alike, far above all others; the bias takes back what it
    writes."""
    weights = _weights()
    shift = -60 * weights["W_dec"][9]
    weights["b_enc"] += shift @ weights["W_enc"]
    weights["b_dec"] += shift
    weights["W_enc"][:, 9], weights["b_enc"][9] = 0.0, 60.0
    return _changed(folder / "with-a-dense-one", tensors=weights)


def _twin(folder: Path) -> Path:
    """The same dictionary in another order: every index means something else."""
    weights = _weights()
    order = list(reversed(range(256)))
    turned = {
        "W_enc": weights["W_enc"][:, order],
        "W_dec": weights["W_dec"][order],
        "b_enc": weights["b_enc"][order],
        "b_dec": weights["b_dec"],
    }
    return _changed(
        folder / "stories-second-run",
        tensors={name: value.contiguous() for name, value in turned.items()},
    )


def _pickle(folder: Path) -> Path:
    """The good SAE as dictionary_learning would have saved it."""
    import torch

    weights, old = _weights(), folder / "old"
    old.mkdir()
    names = {
        "encoder.weight": weights["W_enc"].T,
        "encoder.bias": weights["b_enc"],
        "decoder.weight": weights["W_dec"].T,
        "b_dec": weights["b_dec"],
    }
    torch.save(
        {**{name: tensor.contiguous() for name, tensor in names.items()}, "k": torch.tensor(8)},
        old / "ae.pt",
    )
    trainer = {
        "dict_class": "AutoEncoderTopK",
        "activation_dim": 128,
        "dict_size": 256,
        "k": 8,
        "layer": 2,
        "lm_name": "glassllm-en",
    }
    (old / "config.json").write_text(json.dumps({"trainer": trainer}), encoding="utf-8")
    return old


def _planted(folder: Path) -> Path:
    """A model with a circuit of two neurons written into its weights."""
    from tests.core.graphs import planted

    return planted.save(folder / "planted", GLASS)


def _neurons(folder: Path, layer: int, name: str, *, blind: bool = False) -> Path:
    """A perfect transcoder of a layer of that model; a blind one lacks the neuron of the answer."""
    from tests.core.graphs import planted
    from transformers import GPT2LMHeadModel

    if not (folder / "planted").is_dir():
        _planted(folder)
    hf: Any = GPT2LMHeadModel.from_pretrained(folder / "planted")
    sae = planted.transcoder("planted", layer, hf.transformer.h[layer].mlp)
    if blind:
        sae.W_dec[planted.RECALL] = 0
    return sae.save(folder / name)


def _early(folder: Path) -> Path:
    return _neurons(folder, 0, "mlp-0")


def _late(folder: Path) -> Path:
    return _neurons(folder, 1, "mlp-1")


def _blind(folder: Path) -> Path:
    return _neurons(folder, 1, "mlp-1-second-run", blind=True)


WORLD, TOPIC = 1, "topic-1"
"""A planted world of two topics, and the topic that the user asks for."""


def _topic(folder: Path) -> Path:
    """An SAE in which it is known which feature fires on a made-up topic and writes its words, with
    texts of the topic, other texts, and prompts, in files of one text a line."""
    from agent_evals.scientist.world import make_world

    ground = make_world(WORLD, folder / "made", n_topics=2)
    wish = next(each for each in ground.wishes if each.name == TOPIC)
    assert ground.hidden[TOPIC].expert == RIGHT
    for name, texts in {"with": wish.shown.positives, "without": wish.shown.others}.items():
        (folder / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
    shutil.rmtree(folder / "made" / "model")
    return Path(shutil.move(folder / "made" / "sae", folder / "topics"))


RIGHT, MUTE = 28, 207
"""Of that world: the feature that fires and writes, and a decoy that fires alike."""


def _mute_topic(folder: Path) -> Path:
    """The same SAE, but the right feature writes what a decoy does: nothing."""
    from safetensors.torch import load_file, save_file

    place = _topic(folder) / "sae_weights.safetensors"
    weights = load_file(place)
    weights["W_dec"][RIGHT] = weights["W_dec"][MUTE]
    save_file(weights, place)
    return place.parent


def _texts(folder: Path) -> Path:
    """A small corpus."""
    lines = [
        f"{who} went to the {where} and saw a {what}."
        for who in WHO
        for where in WHERE
        for what in WHAT
    ]
    (folder / "texts").mkdir()
    (folder / "texts" / "walks.txt").write_text("\n\n".join(lines * 3), encoding="utf-8")
    return folder / "texts"


WHO = [
    "The old man",
    "My sister",
    "A little girl",
    "The king",
    "Our mother",
    "The doctor",
    "A young soldier",
    "His brother",
]
WHERE = ["sea", "house", "garden", "church", "river", "city", "window", "door"]
WHAT = ["ship", "light", "child", "horse", "letter", "great fire", "friend", "dark wood"]


def _weights() -> dict[str, Any]:
    from safetensors.torch import load_file

    return {
        name: tensor.float() for name, tensor in load_file(SAE / "sae_weights.safetensors").items()
    }


def _changed(
    folder: Path, *, config: Mapping[str, str] | None = None, tensors: dict[str, Any] | None = None
) -> Path:
    """A copy of the good SAE with other metadata or other weights."""
    from safetensors.torch import save_file

    shutil.copytree(SAE, folder)
    said = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    said["metadata"] |= config or {}
    (folder / "cfg.json").write_text(json.dumps(said, indent=1), encoding="utf-8")
    if tensors:
        save_file(tensors, folder / "sae_weights.safetensors")
    return folder


_THINGS: dict[str, Callable[[Path], Path]] = {
    "good": _good,
    "wrong_site": _wrong_site,
    "other_model": _other_model,
    "random": _random,
    "dense": _dense,
    "twin": _twin,
    "pickle": _pickle,
    "planted": _planted,
    "topic": _topic,
    "mute_topic": _mute_topic,
    "early": _early,
    "late": _late,
    "blind": _blind,
    "texts": _texts,
}
