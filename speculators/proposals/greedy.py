"""The greedy proposal: one chain of the draft's most likely tokens."""

from typing import Literal

from pydantic import Field

from speculators.proposals.base import TokenProposalConfig


@TokenProposalConfig.register("greedy")
class GreedyTokenProposalConfig(TokenProposalConfig):
    """A chain of most likely tokens (Spec-Bench, arXiv:2401.07851); by default only the verifier's own tokens pass.

    `verifier_accept_k` and `accept_tolerance` loosen acceptance as in SpecDec (arXiv:2203.16487), which is lossy.
    """

    proposal_type: Literal["greedy"] = "greedy"
    speculative_tokens: int = Field(default=5, ge=1, description="tokens drafted for each pass of the verifier")
    verifier_accept_k: int = Field(
        default=1, ge=1, description="a drafted token is accepted among the verifier's k most likely ones"
    )
    accept_tolerance: float = Field(
        default=0.0,
        ge=0.0,
        description="with k > 1, how far below the verifier's best token an accepted one may lie, in nats",
    )
