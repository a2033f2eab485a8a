"""RMS normalisation (Zhang & Sennrich 2019, arXiv:1910.07467)."""

import torch
from torch import Tensor, nn

from speculators.nn.recomputed import recomputed


class RMSNorm(nn.Module):
    """x / rms(x) * weight; the mean square is taken in float32, as Llama and vLLM take it. The backward pass recomputes it.

    Args:
        size: width of the last dimension.
        eps: added to the mean square, > 0.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return recomputed(self._normalised, x)

    def _normalised(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)
