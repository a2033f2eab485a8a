"""The verifier's keys and values of a batch whose sequences grow by different amounts."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


class RaggedCache:
    """A cache that is packed to the right after each round.

    So a sequence's columns lie side by side whatever was rejected in the middle: the distance between two columns is
    the distance between two positions, which sliding windows count on.

    Attributes:
        kv: transformers' cache.
        valid_BL: bool, the columns that hold a token; padding stands on the left.
    """

    def __init__(self, valid_BL: Tensor) -> None:
        self.kv = DynamicCache()
        self.valid_BL = valid_BL

    def grow(self, columns: int) -> Tensor:
        """[B, L] mask with so many new columns, all valid."""
        self.valid_BL = torch.nn.functional.pad(self.valid_BL, (0, columns), value=True)
        return self.valid_BL

    def keep(self, kept_BP: Tensor) -> None:
        """Drop columns of the last pass, and pack to the right.

        Args:
            kept_BP: bool, which of the last P columns to keep; column 0 of them always is.
        """
        P = kept_BP.shape[1]
        if P > 1:  # plain decoding has nothing to drop
            self._take(torch.cat((self.valid_BL[:, :-P], kept_BP), dim=1))

    def select(self, rows: Tensor) -> None:
        """Keep only some sequences."""
        layer: Any
        for layer in self.kv.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        self.valid_BL = self.valid_BL[rows]

    def _take(self, valid_BL: Tensor) -> None:
        # A stable sort of False before True moves a sequence's tokens to the right, in order.
        order_BL = valid_BL.to(torch.uint8).argsort(dim=1, stable=True)
        width = int(valid_BL.sum(1).max())
        order_BL = order_BL[:, -width:]
        layer: Any
        for layer in self.kv.layers:
            index = order_BL[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys, layer.values = layer.keys.gather(2, index), layer.values.gather(2, index)
        self.valid_BL = valid_BL.gather(1, order_BL)
