"""A forward or backward pass ends between two blocks once its caller gives up, and leaves the model
as it was."""

import threading

import pytest
import torch
from torch import Tensor

from saescope.cancel import cancellable
from saescope.errors import Cancelled
from saescope.hooks import edit_activations
from saescope.models import LanguageModel
from saescope.saes import SAEMetadata, TopKConfig, TopKSAE

IDS = torch.tensor([[2, 185, 552, 116, 214]])


def hooks_of(model: LanguageModel) -> int:
    return sum(
        len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.bridge.modules()
    )


def test_a_cancel_is_heard_before_the_next_block(glass: LanguageModel) -> None:
    stop, seen = threading.Event(), list[int]()
    before, hooks = glass.forward(IDS)[0], hooks_of(glass)

    def reach(layer: int, x: Tensor) -> Tensor:
        seen.append(layer)
        stop.set()
        return x

    edits = {f"blocks.{n}.hook_resid_pre": lambda x, n=n: reach(n, x) for n in (1, 2)}
    with cancellable(stop), pytest.raises(Cancelled), edit_activations(glass, edits):
        glass.forward(IDS)
    assert seen == [1]
    assert torch.equal(glass.forward(IDS)[0], before) and hooks_of(glass) == hooks


def test_a_cancel_is_heard_in_a_backward_pass(glass: LanguageModel) -> None:
    stop, reached = threading.Event(), list[int]()
    leaf: list[Tensor] = []

    def attach(x: Tensor) -> Tensor:
        leaf[:] = [x.detach().clone().requires_grad_()]
        return leaf[0].clone()

    def mark(x: Tensor) -> Tensor:
        x.register_hook(lambda _gradient: (reached.append(3), stop.set())[1])
        return x.clone()

    edits = {"blocks.0.hook_resid_pre": attach, "blocks.3.hook_resid_pre": mark}
    with cancellable(stop), edit_activations(glass, edits):
        logits = glass.forward(IDS, grad=True)[0]
    with pytest.raises(Cancelled):
        torch.autograd.grad(logits.sum(), leaf[0])
    assert reached == [3]


def test_a_cancel_is_heard_between_two_chunks_of_an_sae() -> None:
    directions = torch.eye(4)
    tensors = {
        "W_enc": directions,
        "W_dec": directions,
        "b_enc": torch.zeros(4),
        "b_dec": torch.zeros(4),
    }
    sae = TopKSAE(TopKConfig(d_in=4, d_sae=4, k=1, metadata=SAEMetadata()), tensors)
    stop = threading.Event()
    stop.set()
    with cancellable(stop), pytest.raises(Cancelled):
        sae.encode(torch.ones(3, 4))
