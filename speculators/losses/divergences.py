"""How far a draft's next-token distribution is from the verifier's, row by row."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

# (log q, log p) -> loss per row; log q [..., D] of the draft, log p [..., D] of the verifier, broadcast.
Divergence = Callable[[Tensor, Tensor], Tensor]


def forward_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p || q) = sum p (log p - log q)."""
    p = log_p.exp()
    return (p * log_p).sum(-1) - (p * log_q).sum(-1)


def cross_entropy(log_q: Tensor, log_p: Tensor) -> Tensor:
    """-log q of the verifier's most likely token."""
    top = log_p.argmax(-1, keepdim=True).expand(*log_q.shape[:-1], 1)
    return -log_q.gather(-1, top).squeeze(-1)


def total_variation(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Half the L1 distance, the chance that a sampled draft token is rejected (arXiv:2211.17192, corollary 3.6)."""
    return 0.5 * F.l1_loss(log_q.exp(), log_p.exp().expand_as(log_q), reduction="none").sum(-1)


# Named as in the settings' `loss`.
DIVERGENCES: dict[str, Divergence] = {"kl": forward_kl, "ce": cross_entropy, "tv": total_variation}
