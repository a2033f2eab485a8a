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
    """A source of verifier states: the model in process, or a cache."""

    @property
    def head(self) -> VerifierHead:
        """The verifier's embedding and output head."""
        ...

    @property
    def device(self) -> torch.device:
        """Where head and states are."""
        ...

    def __call__(self, batch: Batch, layer_ids: Sequence[int]) -> VerifierStates:
        """States of every token of a batch that is on the host, without gradient."""
        ...
