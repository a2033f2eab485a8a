"""DSpark's heads beside the vocabulary head (arXiv:2607.05147)."""

import torch
from torch import Tensor, nn


class MarkovHead(nn.Module):
    """Adds W2 W1[token before] to the logits.

    Args:
        vocab_size: the verifier's, V.
        draft_vocab_size: D.
        rank: r.
    """

    def __init__(self, vocab_size: int, draft_vocab_size: int, rank: int) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, draft_vocab_size, bias=False)

    @property
    def weight(self) -> Tensor:
        """[D, r] W2."""
        return self.markov_w2.weight

    def forward(self, token: Tensor) -> Tensor:
        """[..., r] W1 of verifier tokens."""
        return self.markov_w1(token)


class ConfidenceHead(nn.Module):
    """Predicts the chance that a drafted token is accepted.

    Args:
        size: width of what it reads.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(size, 1)

    def forward(self, hidden: Tensor, before: Tensor | None) -> Tensor:
        """Logits of the chance, one dimension less; `before` is the Markov head's output."""
        read = hidden if before is None else torch.cat((hidden, before.to(hidden.dtype)), dim=-1)
        return self.proj(read).squeeze(-1)
