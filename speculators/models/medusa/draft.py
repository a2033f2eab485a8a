"""Drafting with Medusa heads: every head reads the last verified state, without a cache."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from speculators.nn.slot_drafter import SlotDrafter
from speculators.nn.vocabulary import widen
from speculators.protocols.drafter import Context


class MedusaDrafter(SlotDrafter):
    """Head h predicts the token of level h + 1, whatever the tokens between are."""

    def __init__(self, blocks: nn.ModuleList, heads: Sequence[Tensor], kept_D: Tensor | None, vocab_size: int) -> None:
        super().__init__()
        self.blocks, self.heads, self.kept_D, self.vocab_size = blocks, heads, kept_D, vocab_size

    def read(self, context: Context, depth: int) -> None:
        """Keep the last verified state."""
        assert context.states is not None
        self.last_BH = context.states.last_BTH[:, -1]

    def slot(self, level: int) -> Tensor:
        """One head's logits; computed only if the level is drafted."""
        head_DH = self.heads[level if len(self.heads) > 1 else 0]
        return widen(F.linear(self.blocks[level](self.last_BH), head_DH), self.kept_D, self.vocab_size)
