"""Drafting with a draft whose predictions depend on the level alone, not on the tokens drafted before."""

from abc import ABC, abstractmethod

from torch import Tensor

from speculators.protocols.drafter import Context, Predictions


class SlotDrafter(ABC):
    """Base of drafters that predict every level from the verified text: parallel heads, blocks filled in one pass.

    Implements `speculators.protocols.drafter.Drafter`: all nodes of a level have the same predictions.
    """

    def __init__(self) -> None:
        self.level = 0

    @abstractmethod
    def read(self, context: Context, depth: int) -> None:
        """Take in newly verified positions; arguments as of `Drafter.extend`."""

    @abstractmethod
    def slot(self, level: int) -> Tensor:
        """[B, V] logits of the tokens of a level, 0 to depth - 1, after the last `read`; asked once each, in order."""

    def select(self, rows: Tensor) -> None:
        """Does nothing: the base class keeps no state between rounds."""
        self.level = 0

    def extend(self, context: Context, depth: int) -> Predictions:
        """The first slot."""
        self.read(context, depth)
        self.level = 0
        return Predictions(self.slot(0).unsqueeze(1))

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        """The next slot, for every node."""
        self.level += 1
        return Predictions(self.slot(self.level).unsqueeze(1).expand(-1, token_BN.shape[1], -1))
