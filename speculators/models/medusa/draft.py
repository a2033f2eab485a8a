"""Drafting with Medusa heads: every head reads the last verified state, nothing is remembered."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speculators.nn.vocabulary import widen
from speculators.protocols.drafter import Choose, Context


class MedusaDrafter:
    """Implements `speculators.protocols.drafter.Drafter`."""

    def __init__(self, blocks: nn.ModuleList, heads: Sequence[Tensor], kept_D: Tensor | None, vocab_size: int) -> None:
        self.blocks, self.heads, self.kept_D, self.vocab_size = blocks, heads, kept_D, vocab_size

    def start(self, batch_size: int) -> None:
        """Heads have no state."""

    def select(self, state: None, rows: Tensor) -> None:
        """Heads have no state."""

    def propose(self, state: None, context: Context, count: int, choose: Choose) -> Tensor:
        """Token k comes from head k; `count` is at most the number of heads."""
        last_BH = context.states.last_BTH[:, -1]
        tokens = [choose(self._logits(last_BH, head)) for head in range(count)]
        return torch.stack(tokens, dim=1)

    def _logits(self, last_BH: Tensor, head: int) -> Tensor:
        logits_BD = F.linear(self.blocks[head](last_BH), self.heads[head if len(self.heads) > 1 else 0])
        return widen(logits_BD, self.kept_D, self.vocab_size)
