"""Settings of the greedy proposal. Torch-free."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from speculators.proposals.base import ChainProposalConfig, TokenProposalConfig


@TokenProposalConfig.register("greedy")
class GreedyTokenProposalConfig(ChainProposalConfig):
    """A chain of most likely tokens (Spec-Bench, arXiv:2401.07851); by default only the verifier's own tokens pass.

    `verifier_accept_k` and `accept_tolerance` loosen acceptance as in SpecDec (arXiv:2203.16487), which is lossy.
    """

    proposal_type: Literal["greedy"] = "greedy"
    verifier_accept_k: int = Field(
        default=1, ge=1, description="a drafted token is accepted if it is among the verifier's k most likely ones"
    )
    accept_tolerance: float = Field(
        default=0.0,
        ge=0.0,
        description="with k > 1, how far the log-probability of an accepted token may lie below the verifier's best, in nats",
    )

    def lossy(self, temperature: float) -> str | None:
        """Whether a token other than the verifier's best may pass; while sampling, both settings are unused."""
        if temperature > 0 or self.verifier_accept_k == 1 or self.accept_tolerance == 0:
            return None
        return (
            f"verifier_accept_k={self.verifier_accept_k} with accept_tolerance={self.accept_tolerance} accepts tokens "
            "that are not the verifier's best"
        )

    def problems(self, temperature: float) -> Iterator[tuple[str, Any, str]]:
        """Settings that have no effect because of another setting."""
        if self.verifier_accept_k == 1 and self.accept_tolerance > 0:
            reason = "has no effect with proposal.verifier_accept_k=1; raise verifier_accept_k, or set this to 0"
            yield "accept_tolerance", self.accept_tolerance, reason
        if self.verifier_accept_k > 1 and temperature > 0:
            reason = "has no effect with evaluation.temperature > 0; set evaluation.temperature=0, or this to 1"
            yield "verifier_accept_k", self.verifier_accept_k, reason
