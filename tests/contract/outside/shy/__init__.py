"""Shy: greedy, but never more than so many drafted tokens are accepted at once."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from speculators.proposals import ChainProposalConfig, TokenProposalConfig


@TokenProposalConfig.register("shy")
class ShyProposalConfig(ChainProposalConfig):
    """A chain of most likely tokens of which at most `max_accepted` pass."""

    proposal_type: Literal["shy"] = "shy"
    max_accepted: int = Field(default=1, ge=0, description="tokens that pass at most")

    def problems(self, temperature: float) -> Iterator[tuple[str, Any, str]]:
        """It compares with the verifier's best token alone."""
        if temperature > 0:
            yield "proposal_type", self.proposal_type, "cannot sample; set evaluation.temperature=0"
