"""Settings of EAGLE-3. Torch-free."""

from typing import Literal

from pydantic import Field

from speculators.models.fused_states import FusedStatesSettings
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.strict import Count


@AlgorithmSettings.register("eagle3")
class Eagle3Settings(FusedStatesSettings):
    """EAGLE-3 in training (Li et al. 2025, arXiv:2503.01840)."""

    name: Literal["eagle3"]
    ttt_steps: Count = Field(description="steps of training-time test: how many tokens ahead the draft is trained")

    @property
    def slots(self) -> int:
        """One slot a step."""
        return self.ttt_steps

    @property
    def recurrent(self) -> bool:
        """Every step is the same computation."""
        return True
