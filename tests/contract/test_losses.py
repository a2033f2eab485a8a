"""Every loss that an algorithm offers, against full logits and plain loops."""

from collections.abc import Callable

import torch
from torch import Tensor


def kl(p: Tensor, q: Tensor, state: Tensor, verifiers: Tensor) -> Tensor:
    """Forward Kullback-Leibler divergence."""
    return (p * (p.log() - q.log())).sum()


def ce(p: Tensor, q: Tensor, state: Tensor, verifiers: Tensor) -> Tensor:
    """Cross entropy with the verifier's first choice."""
    return -q[p.argmax()].log()


def tv(p: Tensor, q: Tensor, state: Tensor, verifiers: Tensor) -> Tensor:
    """Total variation."""
    return (p - q).abs().sum() / 2


def smooth_l1(p: Tensor, q: Tensor, state: Tensor, verifiers: Tensor) -> Tensor:
    """Huber's distance of the states with threshold one, the mean over elements."""
    d = (state - verifiers).abs()
    return torch.where(d < 1, d**2 / 2, d - 0.5).mean()


# A loss of a new kind gets its naive twin here.
NAIVE: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "kl": kl,
    "ce": ce,
    "tv": tv,
    "smooth_l1": smooth_l1,
}
