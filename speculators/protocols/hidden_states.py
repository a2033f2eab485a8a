"""The verifier's hidden states, wherever they are computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead


@dataclass(frozen=True)
class VerifierStates:
    """What a draft reads of the verifier.

    Attributes:
        last_BTH: state after the final norm, the one that the verifier's head reads.
        aux_BTA: states entering the asked layers, side by side in ascending order (A = layers * H); None if none was
            asked. Layer id i is the residual stream entering layer i: 0 the embeddings, L the output of the last layer
            before the final norm. These are vLLM's ids.
    """

    last_BTH: Tensor
    aux_BTA: Tensor | None


class HiddenStates(Protocol):
    """A source of verifier states: the verifier in the training process, or states computed elsewhere.

    A source serves the sequences and layers that it was opened for, any number of times and in any order.
    """

    @property
    def head(self) -> VerifierHead:
        """The verifier's embedding and output head, on `device`."""
        ...

    @property
    def device(self) -> torch.device:
        """Where head and states are."""
        ...

    @property
    def prefetch_steps(self) -> int:
        """Optimizer steps whose batches are announced before they are requested; 0 for a source that computes on request."""
        ...

    def announce(self, batch: Batch, layer_ids: Sequence[int]) -> None:
        """Say that a batch will be requested, once and with the same arguments, so that its states can be fetched meanwhile."""
        ...

    def stop_waiting(self) -> None:
        """Give up a server that does not answer, instead of asking it again; may be called by a signal handler."""
        ...

    def __call__(self, batch: Batch, layer_ids: Sequence[int]) -> VerifierStates:
        """States of every token of a batch, each computed from its own document alone.

        Args:
            batch: packed sequences, on the host: [B, T] tokens, in which positions restart with each document.
            layer_ids: ids as in `VerifierStates`, 0 to L, ascending, without repeats; empty asks for the last state
                alone.

        Returns:
            [B, T, H] and [B, T, len(layer_ids) * H] on `device`, in the dtype that the verifier runs in (of
            the head's weights), without gradient. Places of padding hold any finite values.

        Raises:
            ValueError: the source was opened for other sequences or layers.
            OSError: the states cannot be read from where they are stored, or a server does not deliver them; the message
                names the place.
        """
        ...
