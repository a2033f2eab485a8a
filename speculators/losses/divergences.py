"""How far a draft's next-token distribution is from the verifier's, row by row."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from speculators.losses.metrics import overlap

# (log q, log p, log whole) -> loss per row, all [..., D]: log q of the draft; log p of the verifier, renormalised over
# the draft's tokens; log whole of the same tokens in the verifier's whole vocabulary. The last two are one tensor where
# the draft has the whole vocabulary, and broadcast.
Divergence = Callable[[Tensor, Tensor, Tensor], Tensor]

# Where the draft accepts almost nothing, -log of its acceptance grows no further.
LEAST_ACCEPTANCE = 1e-5
# Of the LK paper's hybrid loss; its best value.
LK_ETA = 3.0
# HASS's K.
TOP_K = 10


def forward_kl(log_q: Tensor, log_p: Tensor, log_whole: Tensor) -> Tensor:
    """KL(p || q) = sum p (log p - log q)."""
    p = log_p.exp()
    return (p * log_p).sum(-1) - (p * log_q).sum(-1)


def reverse_kl(log_q: Tensor, log_p: Tensor, log_whole: Tensor) -> Tensor:
    """KL(q || p) = sum q (log q - log p)."""
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def jensen_shannon(log_q: Tensor, log_p: Tensor, log_whole: Tensor) -> Tensor:
    """(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2; at most log 2."""
    log_m = torch.logaddexp(log_q, log_p) - math.log(2)
    return 0.5 * ((log_p.exp() * (log_p - log_m)).sum(-1) + (log_q.exp() * (log_q - log_m)).sum(-1))


def cross_entropy(log_q: Tensor, log_p: Tensor, log_whole: Tensor) -> Tensor:
    """-log q of the verifier's most likely token."""
    top = log_p.argmax(-1, keepdim=True).expand(*log_q.shape[:-1], 1)
    return -log_q.gather(-1, top).squeeze(-1)


def top_k_cross_entropy(log_q: Tensor, log_p: Tensor, log_whole: Tensor, k: int = TOP_K) -> Tensor:
    """-sum p log q over the verifier's k most likely tokens that the draft has, p not renormalised.

    Zhang et al. 2024 (HASS), arXiv:2408.15766, section 3.1.
    """
    log_top, top = log_whole.topk(min(k, log_whole.shape[-1]))
    return -(log_top.exp() * log_q.gather(-1, top.expand(*log_q.shape[:-1], -1))).sum(-1)


def total_variation(log_q: Tensor, log_p: Tensor, log_whole: Tensor) -> Tensor:
    """1 - sum min(p, q), the chance that a sampled draft token is rejected (arXiv:2211.17192, corollary 3.6)."""
    # What q has in excess of p: the same sum for a reduced vocabulary, where p adds up to less than one.
    return F.relu(log_q.exp() - log_whole.exp()).sum(-1)


def negative_log_acceptance(log_q: Tensor, log_p: Tensor, log_whole: Tensor) -> Tensor:
    """-log sum min(p, q); its gradient is the total variation's over the acceptance."""
    return -overlap(log_q, log_whole).clamp_min(LEAST_ACCEPTANCE).log()


def lk_hybrid(log_q: Tensor, log_p: Tensor, log_whole: Tensor) -> Tensor:
    """lambda KL(p || q) + (1 - lambda) TV with lambda = exp(-eta * acceptance), row by row (LK losses, arXiv:2602.23881)."""
    share = (-LK_ETA * overlap(log_q.detach(), log_whole)).exp()
    distance = total_variation(log_q, log_p, log_whole)
    return share * forward_kl(log_q, log_p, log_whole) + (1 - share) * distance


# Named as in the settings' `loss`.
DIVERGENCES: dict[str, Divergence] = {
    "kl": forward_kl,
    "rkl": reverse_kl,
    "jsd": jensen_shannon,
    "ce": cross_entropy,
    "topk": top_k_cross_entropy,
    "tv": total_variation,
    "nla": negative_log_acceptance,
    "lk_hybrid": lk_hybrid,
}
