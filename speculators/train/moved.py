"""Checks that every trainable parameter gets a gradient and changes."""

import torch
from torch import nn

from speculators.train.sharding import whole


def fingerprint(model: nn.Module) -> dict[str, list[float]]:
    """Two float64 sums of every trainable tensor, by name; they change when the tensor does."""
    found = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            own = whole(p.detach())
            wide = own.double() if own.device.type != "mps" else own.cpu().double()
            found[name] = torch.stack([wide.sum(), wide.square().sum()])
    return {name: sums.tolist() for name, sums in found.items()}


def check_gradients(model: nn.Module) -> None:
    """Check after the first backward pass that every trainable tensor is part of the loss.

    Raises:
        RuntimeError: names the tensors that got no gradient.
    """
    lost = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if lost:
        raise RuntimeError(
            f"no gradient reaches {', '.join(lost)}: the loss does not depend on them; freeze them or use them in the loss"
        )


def check_moved(model: nn.Module, before: dict[str, list[float]]) -> None:
    """Check that every trainable tensor differs from `before`, the fingerprint of the fresh model.

    Raises:
        RuntimeError: names the tensors that did not change.
    """
    now = fingerprint(model)
    still = [name for name in now if now[name] == before[name]]
    if still:
        raise RuntimeError(f"training did not change {', '.join(still)}; freeze them or raise optimizer.lr")
