"""Whether a training is still one: finite losses, finite scores, finite weights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import TrainerState

from wsivit.errors import UsageError
from wsivit.models import non_finite

_EVERY = 16
"""Steps after which a GPU is asked: asked at each, it would be waited for at each."""


class Health:
    """Stops a training at the first loss, score or weight that is not finite, before anything of it is kept.

    Parameters
    ----------
    lr : float
        For the advice.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self._first: Tensor | None = None  # step of the first bad loss, -1 for none, on the device

    def see(self, loss: Tensor, state: TrainerState) -> None:
        """Look at the loss of a step."""
        step = state.global_step + 1
        if self._first is None:
            self._first = torch.full((), -1, dtype=torch.int64, device=loss.device)
        bad = ~loss.detach().isfinite() & (self._first < 0)
        self._first = torch.where(bad, step, self._first)
        if loss.device.type == "cpu" or step % _EVERY == 0:
            self.check(state)

    def check(self, state: TrainerState) -> None:
        """Raise where a loss that was seen is not finite."""
        step = -1 if self._first is None else int(self._first)
        if step >= 0:
            raise self._stop("the loss is", step, state)

    def check_scores(self, scores: NDArray[np.floating], state: TrainerState) -> None:
        """Raise where scores of held-out pictures are not finite."""
        if not np.isfinite(scores).all():
            raise self._stop("the scores of held-out pictures are", state.global_step, state)

    def check_weights(self, network: nn.Module, state: TrainerState) -> None:
        """Raise where weights are not finite; to be asked before they are saved."""
        broken = non_finite(network)
        if broken:
            raise self._stop(f"{broken}, and they are", state.global_step, state)

    def _stop(self, what: str, step: int, state: TrainerState) -> UsageError:
        if step <= 1:
            ways = (
                "nothing was learned before it, so the weights that it started from overflow: take others "
                "(another --model or --weights, or --no-pretrained)"
            )
        else:
            ways = f"try a lower learning rate (--lr {self.lr / 10:.2g}) in another output folder"
        of = f" of {state.max_steps}" if state.max_steps else ""
        return UsageError(
            f"the training stopped at step {step}{of}: {what} not finite (NaN or infinity), nothing of it was saved; "
            f"{ways}"
        )
