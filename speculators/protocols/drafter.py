"""What decoding asks of a draft."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from speculators.protocols.hidden_states import VerifierStates


@dataclass(frozen=True)
class Context:
    """Verified positions that the drafter has not seen yet, left-padded to one width T.

    As in vLLM, place i carries the verifier's state at position i and the *next* token, the one at i + 1; the last
    place carries the token just sampled. Keys and values of verified tokens so always come from true states.

    Attributes:
        next_token_BT: int64 token at position + 1.
        states: the verifier's states at these positions; None for a draft that asks for none.
        position_BT: int64 position in the sequence, from 0 (padding: 0).
        valid_BT: bool, False at padding. Every sequence has at least one place.
    """

    next_token_BT: Tensor
    states: VerifierStates
    position_BT: Tensor
    valid_BT: Tensor


# Chooses one token per sequence from [B, V] logits over the verifier's vocabulary (-inf where a draft has no such token).
Choose = Callable[[Tensor], Tensor]


class Drafter(Protocol):
    """A draft that decodes a batch of sequences."""

    def start(self, batch_size: int) -> Any:
        """An empty state for so many sequences; only the drafter looks inside."""
        ...

    def propose(self, state: Any, context: Context, count: int, choose: Choose) -> Tensor:
        """Take in `context`, then draft.

        Args:
            state: what `start` gave; holds the context of earlier calls and is changed in place. Speculative entries
                are dropped before return.
            context: the newly verified positions.
            count: tokens to draft, K >= 1.
            choose: how a token is taken from logits.

        Returns:
            int64 token_BK in the verifier's vocabulary.
        """
        ...

    def select(self, state: Any, rows: Tensor) -> Any:
        """The state of only some sequences, `rows` int64 indices: finished ones leave the batch."""
        ...
