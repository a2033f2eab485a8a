"""Two chains: the draft's two most likely first tokens, each followed by most likely tokens."""

from typing import ClassVar, Literal

from pydantic import Field

from speculators.proposals import TokenProposalConfig


@TokenProposalConfig.register("two_chains")
class TwoChainsProposalConfig(TokenProposalConfig):
    """A static tree of two branches."""

    is_tree: ClassVar[bool] = True
    levels_key: ClassVar[str] = "length"

    proposal_type: Literal["two_chains"] = "two_chains"
    length: int = Field(default=3, ge=1, description="tokens of each chain")

    @property
    def levels(self) -> int:
        """One level a token of a chain."""
        return self.length

    @property
    def nodes(self) -> int:
        """Both chains."""
        return 2 * self.length
