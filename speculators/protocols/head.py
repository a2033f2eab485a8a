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
        bias_V: [V] what the head adds to its products (Phi); None adds nothing.
    """

    embed_VH: Tensor
    head_VH: Tensor
    logit_scale: float = 1.0
    softcap: float | None = None
    bias_V: Tensor | None = None

    def embed(self, token: Tensor) -> Tensor:
        """Embeddings of int64 `token`, one more dimension H."""
        return F.embedding(token, self.embed_VH)

    def logits(self, last_NH: Tensor) -> Tensor:
        """[N, V] logits of states after the final norm."""
        return self.scaled(F.linear(last_NH, self.head_VH))

    def scaled(self, logits: Tensor, kept_D: Tensor | None = None) -> Tensor:
        """Logits from the head's bare products: with its bias, scaled and capped.

        Args:
            logits: products with the head's rows over the last dimension.
            kept_D: int64 ids of the tokens that these rows are; None is the whole vocabulary.
        """
        if self.bias_V is not None:
            logits = logits + (self.bias_V if kept_D is None else self.bias_V[kept_D])
        if self.logit_scale != 1:
            logits = logits * self.logit_scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
