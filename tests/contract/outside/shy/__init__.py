"""Shy: greedy, but never more than so many drafted tokens are accepted at once."""

from typing import Literal

from pydantic import Field

from speculators.proposals import TokenProposalConfig


@TokenProposalConfig.register("shy")
class ShyProposalConfig(TokenProposalConfig):
    """A chain of most likely tokens of which at most `max_accepted` pass."""

    proposal_type: Literal["shy"] = "shy"
    speculative_tokens: int = Field(default=3, ge=1, description="tokens drafted for each pass of the verifier")
    max_accepted: int = Field(default=1, ge=0, description="tokens that pass at most")
