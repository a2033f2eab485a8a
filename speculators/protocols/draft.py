"""A draft, and the verifier's verdict on it: the data passed between drafting, verification and acceptance."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draft:
    """A tree of M drafted tokens for every sequence; the root is the last verified token, which is no node.

    Attributes:
        token_BM: int64 tokens of the verifier's vocabulary.
        parent_BM: int64 index of each node's parent, less than its own index; -1 is the root. None is a chain: the
            parent of node i is i - 1.
        valid_BM: bool, False at nodes that a sequence does not have: drafts of a batch may differ in size. What hangs
            below such a node is not valid either. None is True everywhere.
        prob_BMV: float32 distribution that each token was sampled from, before its earlier siblings were taken out of
            it; it stands at the token, not at its parent. None if tokens were chosen, not sampled.
    """

    token_BM: Tensor
    parent_BM: Tensor | None = None
    valid_BM: Tensor | None = None
    prob_BMV: Tensor | None = None

    @property
    def is_chain(self) -> bool:
        """Whether every node has one child, known without looking at the parents' values."""
        return self.parent_BM is None

    def parents(self) -> Tensor:
        """[B, M] parents, those of a chain written out."""
        if self.parent_BM is not None:
            return self.parent_BM
        return torch.arange(-1, self.token_BM.shape[1] - 1, device=self.token_BM.device).expand_as(self.token_BM)

    def valid(self) -> Tensor:
        """[B, M] validity, written out."""
        return torch.ones_like(self.token_BM, dtype=torch.bool) if self.valid_BM is None else self.valid_BM


@dataclass(frozen=True)
class Verdict:
    """What the verifier accepts of a draft.

    Attributes:
        node_BD: int64 accepted nodes from the root down, one a level; -1 after the last one. D is the most levels that
            a draft of this method can have.
        token_B: int64 the verifier's own next token, after the last accepted node.
    """

    node_BD: Tensor
    token_B: Tensor

    @property
    def accepted_B(self) -> Tensor:
        """int64 number of accepted tokens, 0 to D."""
        return (self.node_BD >= 0).sum(1)
