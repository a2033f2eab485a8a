"""The verifier's cache of a batch whose sequences grow by different amounts."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin


class RaggedCache:
    """A cache that is packed to the right after each round.

    So a sequence's columns lie side by side whatever was rejected in the middle: the distance between two columns is
    the distance between two positions, which sliding windows count on.

    Layers with a state (linear attention, convolutions) have no columns, and nothing can be taken out of their state.
    So the state is saved after each token of a round, and the one after the last kept token is restored.

    Args:
        kv: transformers' cache, empty.
        valid_BL: bool, which columns of the prompts hold a token.

    Attributes:
        kv: transformers' cache.
        valid_BL: bool, the columns that hold a token; padding stands on the left.
    """

    def __init__(self, kv: Cache, valid_BL: Tensor) -> None:
        self.kv, self.valid_BL = kv, valid_BL
        self._noted: list[list[Tensor]] = []

    @property
    def has_state(self) -> bool:
        """Whether some layers have a state, so that a round must be read token by token."""
        return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in self.kv.layers)

    def note(self) -> None:
        """Save the states after another token of this round."""
        self._noted.append([states[i].clone() for states, i in self._states()])

    def grow(self, columns: int) -> Tensor:
        """[B, L] mask with `columns` new columns, all valid."""
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
            self._go_back(kept_BP.sum(1) - 1)
        self._noted.clear()

    def select(self, rows: Tensor) -> None:
        """Keep only some sequences."""
        for layer in self._attention():
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        for states, i in self._states():
            states[i] = states[i][rows]
        self.valid_BL = self.valid_BL[rows]

    def _take(self, valid_BL: Tensor) -> None:
        # A stable sort of False before True moves a sequence's tokens to the right, in order.
        order_BL = valid_BL.to(torch.uint8).argsort(dim=1, stable=True)
        width = int(valid_BL.sum(1).max())
        order_BL = order_BL[:, -width:]
        for layer in self._attention():
            layer.keys, layer.values = _columns(layer.keys, order_BL), _columns(layer.values, order_BL)
        self.valid_BL = valid_BL.gather(1, order_BL)

    def _go_back(self, place_B: Tensor) -> None:
        """Restore each sequence's states after its token at a place of the round."""
        row_B = torch.arange(len(place_B), device=place_B.device)
        for (states, i), noted in zip(self._states(), zip(*self._noted, strict=True), strict=True):
            states[i] = torch.stack(noted)[place_B, row_B]

    def _attention(self) -> Iterator[Any]:
        """Layers that have keys and values."""
        return (layer for layer in self.kv.layers if isinstance(layer, DynamicLayer))

    def _states(self) -> Iterator[tuple[dict[int, Any], int]]:
        """The containers and keys of all states of layers that have states."""
        for layer in self.kv.layers:
            if isinstance(layer, LinearAttentionCacheLayerMixin):
                for states in (layer.conv_states, layer.recurrent_states):
                    yield from ((states, i) for i in states if states[i] is not None)


def _columns(x_BKLd: Tensor, index_BM: Tensor) -> Tensor:
    """[B, K, M, d] columns of keys or of values, whose widths may differ."""
    return x_BKLd.gather(2, index_BM[:, None, :, None].expand(-1, x_BKLd.shape[1], -1, x_BKLd.shape[3]))
