"""A reduced draft vocabulary: which of the verifier's tokens a draft can predict."""

import torch
from torch import Tensor, nn


class FrozenHead(nn.Module):
    """Rows of the verifier's head, published with the draft and not trained.

    Args:
        size: tokens of the draft's vocabulary, D.
        hidden_size: H.
    """

    weight: Tensor

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(size, hidden_size))


def most_frequent(token_count_V: Tensor, size: int) -> Tensor:
    """[size] int64 ids of the most frequent tokens, ascending; ties go to the lower id."""
    order_V = torch.argsort(token_count_V, descending=True, stable=True)
    return order_V[:size].sort().values


def widen(logits_BD: Tensor, kept_D: Tensor | None, vocab_size: int) -> Tensor:
    """[B, V] logits over the verifier's vocabulary, -inf for tokens that were not kept; None kept all."""
    if kept_D is None:
        return logits_BD
    logits_BV = logits_BD.new_full((len(logits_BD), vocab_size), float("-inf"))
    return logits_BV.index_copy(1, kept_D, logits_BD)
