"""Temporal SAEs: sequences stay apart, the future is not seen, edits add decoder rows."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.core.formats.trees import hub, load

from saescope.errors import ConfigError
from saescope.formats import BY_NAME
from saescope.ops import from_dense
from saescope.saes import SAE, GroupMaxConfig, GroupMaxSAE, StandardConfig

DATA = Path(__file__).parents[2] / "data" / "dialects"


@pytest.fixture(params=["temporal", "temporal_untied"])
def case(request: pytest.FixtureRequest) -> tuple[SAE, torch.Tensor]:
    folder = DATA / request.param
    said = json.loads((folder / "case.json").read_text())
    sae = load(BY_NAME["temporal"], hub(folder / said["tree"], said["repo_id"], said["path"]))
    return sae, load_file(folder / "io.safetensors")["x"]


def test_sequences_of_a_batch_do_not_see_each_other(case: tuple[SAE, torch.Tensor]) -> None:
    sae, x = case
    assert torch.allclose(sae.encode(x)[1], sae.encode(x[1]), atol=1e-6)
    assert torch.allclose(sae(x)[1], sae(x[1]), atol=1e-5)


def test_a_position_sees_only_what_came_before(case: tuple[SAE, torch.Tensor]) -> None:
    sae, x = case
    changed = x.clone()
    changed[:, -1] += 3.0
    assert torch.allclose(sae.encode(changed)[:, :-1], sae.encode(x)[:, :-1], atol=1e-6)
    assert torch.allclose(sae(changed)[:, :-1], sae(x)[:, :-1], atol=1e-5)


def test_an_edit_adds_decoder_rows_and_keeps_the_predicted_part(
    case: tuple[SAE, torch.Tensor],
) -> None:
    sae, x = case
    acts = sae.encode(x).reshape(-1, sae.cfg.d_sae)
    edited = acts.clone()
    edited[:, 7] += 2.0
    out = [
        sae.decode(from_dense(each), like=x).reshape(-1, sae.cfg.d_in) for each in (acts, edited)
    ]
    assert torch.allclose(
        out[1] - out[0], sae.decode_change(from_dense(edited - acts), like=x), atol=1e-5
    )
    assert torch.allclose(out[1] - out[0], 2.0 * sae.W_dec[7].expand_as(out[0]) / 0.3, atol=1e-4)


def test_features_alone_are_not_the_reconstruction(case: tuple[SAE, torch.Tensor]) -> None:
    sae, x = case
    with pytest.raises(ConfigError, match="needs the input"):
        sae.decode(sae.encode(x))


@pytest.mark.parametrize("fold", ["fold_W_dec_norm", "whitening"])
def test_what_would_change_the_features_is_refused(
    case: tuple[SAE, torch.Tensor], fold: str
) -> None:
    sae, x = case
    eye = torch.eye(x.shape[-1])
    with pytest.raises(ConfigError):
        _ = (
            sae.fold_W_dec_norm()
            if fold == "fold_W_dec_norm"
            else sae.fold_activation_whitening(eye[0], eye, eye)
        )


def test_weights_are_counted_once(case: tuple[SAE, torch.Tensor]) -> None:
    sae, _ = case
    assert sae.weights_bytes == sum(tensor.nbytes for tensor in sae.state_dict().values())


def test_groupmax_keeps_one_feature_of_each_group() -> None:
    weights = {
        "W_enc": torch.eye(4),
        "W_dec": torch.eye(4),
        "b_enc": torch.zeros(4),
        "b_dec": torch.zeros(4),
    }
    sae = GroupMaxSAE(GroupMaxConfig(d_in=4, d_sae=4, k=2), weights)
    assert sae.encode(torch.tensor([[1.0, 3.0, -2.0, -1.0]])).tolist() == [[0.0, 3.0, 0.0, 0.0]]
    with pytest.raises(ConfigError, match="divides"):
        GroupMaxConfig(d_in=4, d_sae=4, k=3)
    with pytest.raises(ConfigError, match="largest"):
        sae.fold_W_dec_norm()


def test_a_scale_that_only_temporal_saes_have() -> None:
    with pytest.raises(ConfigError, match="temporal"):
        StandardConfig(d_in=4, d_sae=4, normalize_activations="constant_scalar_rescale")
