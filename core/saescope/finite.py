"""NaN and infinity found at once, or together: each question whether a tensor is finite makes the
host wait for an accelerator, so that a batch asks all of its own in one."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from saescope.errors import Cancelled, NumericError


class _FiniteCheck(NamedTuple):
    answer: Tensor
    error: Callable[[], NumericError]


class FiniteChecks(list[_FiniteCheck]):
    """What is to be answered together."""

    def ask(self, *numbers: Shaped[Tensor, "..."]) -> list[int]:
        """Whole numbers of a device, one after another, for the wait that answers what is to be
        answered so far.

        Raises:
            NumericError: of the first that is not finite; then the numbers say nothing.
        """
        device = numbers[0].device
        answers = [each.answer.to(device).reshape(1) for each in self]
        found = torch.cat([each.reshape(-1).long() for each in (*answers, *numbers)]).tolist()
        checks = [*self]
        self.clear()
        for each, is_finite in zip(checks, found, strict=False):
            if not is_finite:
                raise each.error()
        return found[len(checks) :]


_asked: ContextVar[FiniteChecks | None] = ContextVar("saescope_finite", default=None)


def all_finite(x: Shaped[Tensor, "..."]) -> Shaped[Tensor, ""]:
    """Whether every number is finite, in one reading and without a mask as large as `x`: its ends
    are, and NaN is both of them."""
    return torch.stack(x.aminmax()).isfinite().all() if x.numel() else x.isfinite().all()


def require_finite(x: Tensor, error: Callable[[], NumericError]) -> None:
    """Raise the error if a number of `x` is NaN or infinite: here, or at the end of the surrounding
    `finite_together`.

    Raises:
        NumericError: what `error` makes.
    """
    check = _FiniteCheck(all_finite(x.detach()), error)
    asked = _asked.get()
    if asked is None:
        _require([check])
    else:
        asked.append(check)


@contextmanager
def finite_together() -> Generator[FiniteChecks]:
    """What is asked inside the block is answered at its end, with one wait for the device. A block
    within another answers for itself, so that what it catches does not come again.

    Raises:
        NumericError: of the first that is not finite.
    """
    token = _asked.set(asked := FiniteChecks())
    try:
        yield asked
    except Cancelled:
        raise
    except Exception:
        _require(asked)  # what is not finite is why something else failed
        raise
    finally:
        _asked.reset(token)
    _require(asked)


def _require(checks: list[_FiniteCheck]) -> None:
    if not checks:
        return
    answers = torch.stack([each.answer.to(checks[-1].answer.device) for each in checks])
    for each, is_finite in zip(checks, answers.tolist(), strict=True):
        if not is_finite:
            raise each.error()
