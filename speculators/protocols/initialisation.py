"""Inputs for the initial weights of a new draft."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from speculators.protocols.head import VerifierHead


class CheckpointTensors(Protocol):
    """Tensors of the verifier's checkpoint, each read when it is asked for."""

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors, as in the checkpoint's files."""
        ...

    def read(self, name: str, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """A copy of one tensor.

        Args:
            name: in the checkpoint.
            device: where it goes.
            dtype: what it becomes; None keeps the stored one.

        Raises:
            ValueError: there is no such tensor.
        """
        ...


def _no_checkpoint() -> CheckpointTensors:
    raise ValueError("no checkpoint of the verifier was given, only its embedding and head")


@dataclass(frozen=True)
class Initialisation:
    """What `SpeculatorModel.initialise` may take first weights from.

    Attributes:
        verifier: the verifier's embedding and head.
        token_count_V: int64 count of each supervised token in the training data, for a reduced vocabulary.
        open_checkpoint: gives access to the verifier's other tensors by name; raises ValueError if the checkpoint has
            no safetensors files. Nothing is opened unless it is called.
        start: the model that the settings' `starts_from` names; None if they name none.
    """

    verifier: VerifierHead
    token_count_V: Tensor
    open_checkpoint: Callable[[], CheckpointTensors] = _no_checkpoint
    start: CheckpointTensors | None = None
