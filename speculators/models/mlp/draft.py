"""Drafting with an MLP speculator: a stage for each level, from its parent's state, without a cache."""

from typing import Protocol

import torch
from torch import Tensor

from speculators.protocols.drafter import Context, Predictions


class Stages(Protocol):
    """The part of the model that drafts."""

    def first_state(self, last: Tensor) -> Tensor:
        """The verifier's state as the first stage reads it."""
        ...

    def stage(self, number: int, state: Tensor, token: Tensor) -> Tensor:
        """The state after a stage, counted from 0, that takes in `token`."""
        ...

    def logits(self, number: int, state: Tensor) -> Tensor:
        """What a stage's head makes of its state."""
        ...


class MLPDrafter:
    """Implements `speculators.protocols.drafter.Drafter`; all that it keeps is the state of each node of a level."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages

    def select(self, rows: Tensor) -> None:
        """Do nothing: a round begins with the verifier's state."""

    def extend(self, context: Context, depth: int) -> Predictions:
        """The first stage, from the last verified state and the token just sampled."""
        assert context.states is not None
        return self._predict(0, self.stages.first_state(context.states.last_BTH[:, -1:]), context.next_token_BT[:, -1:])

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        """The next stage, each node from its parent's state."""
        parents_BNH = torch.take_along_dim(self.state_BNH, parent_BN.unsqueeze(-1), dim=1)
        return self._predict(self.number + 1, parents_BNH, token_BN)

    def _predict(self, number: int, state_BNH: Tensor, token_BN: Tensor) -> Predictions:
        self.number, self.state_BNH = number, self.stages.stage(number, state_BNH, token_BN)
        return Predictions(self.stages.logits(number, self.state_BNH))
