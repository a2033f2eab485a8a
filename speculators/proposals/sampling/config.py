"""Settings of the sampling proposal. Torch-free."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from speculators.proposals.base import ChainProposalConfig, TokenProposalConfig


@TokenProposalConfig.register("sampling")
class SamplingTokenProposalConfig(ChainProposalConfig):
    """A chain sampled from the draft, accepted by rejection sampling (Leviathan et al. 2023, arXiv:2211.17192).

    At temperature 0 there is nothing to sample: the chain holds the most likely tokens, and the verifier's own are accepted.
    """

    served: ClassVar[frozenset[str]] = ChainProposalConfig.served | {"rejection_sample_method"}

    proposal_type: Literal["sampling"] = "sampling"
    accept_lenience: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="a token is accepted with probability min(1, p / (accept_lenience q)); below 1 is lossy",
    )
    rejection_sample_method: Literal["standard", "block"] = Field(
        default="standard",
        description="decide token by token, or for all drafted tokens together, which accepts no fewer (arXiv:2403.10444)",
    )

    def serving_options(self) -> dict[str, str]:
        """Options that make vLLM sample drafts and use the draft's distributions in rejection sampling."""
        method = self.rejection_sample_method
        return {"draft_sample_method": "probabilistic"} | (
            {"rejection_sample_method": method} if method == "block" else {}
        )

    def lossy(self, temperature: float) -> str | None:
        """Whether tokens are accepted more often than the verifier would sample them."""
        if temperature == 0 or self.accept_lenience == 1:
            return None
        return (
            f"accept_lenience={self.accept_lenience} accepts drafted tokens more often than the verifier samples them"
        )

    def problems(self, temperature: float) -> Iterator[tuple[str, Any, str]]:
        """Settings that have no effect."""
        if self.accept_lenience < 1 and self.rejection_sample_method == "block":
            yield "accept_lenience", self.accept_lenience, "block verification has no lenience; set this to 1.0"
        if temperature == 0:
            remedy = "has no effect with evaluation.temperature=0; raise the temperature, or set this to"
            if self.accept_lenience < 1:
                yield "accept_lenience", self.accept_lenience, f"{remedy} 1.0"
            if self.rejection_sample_method != "standard":
                yield "rejection_sample_method", self.rejection_sample_method, f"{remedy} standard"
