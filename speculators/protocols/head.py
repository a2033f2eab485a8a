"""The verifier's embedding and head, the two ends that drafts share."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class VerifierHead:
    """Frozen embedding and output head.

    Attributes:
        embed_VH: [V, H] input embedding.
        head_VH: [V, H] output head, applied to the state after the final norm.
        logit_scale: logits are multiplied by this (Cohere, Granite: 1 / logits_scaling).
        softcap: logits become softcap * tanh(logits / softcap) (Gemma); None leaves them.
    """

    embed_VH: Tensor
    head_VH: Tensor
    logit_scale: float = 1.0
    softcap: float | None = None

    def embed(self, token: Tensor) -> Tensor:
        """Embeddings of int64 `token`, one more dimension H."""
        return F.embedding(token, self.embed_VH)

    def logits(self, last_NH: Tensor) -> Tensor:
        """[N, V] logits of states after the final norm."""
        return self.scaled(F.linear(last_NH, self.head_VH))

    def scaled(self, logits: Tensor) -> Tensor:
        """The head's bare products, scaled and capped."""
        if self.logit_scale != 1:
            logits = logits * self.logit_scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
