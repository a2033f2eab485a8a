"""TokenProposalConfig: base of what says how tokens are drafted and accepted."""

from typing import ClassVar

from pydantic import Field

from speculators.utils.pydantic_utils import PydanticClassRegistryMixin


class TokenProposalConfig(PydanticClassRegistryMixin):
    """How tokens are proposed and when they are accepted; each file beside this one registers a method."""

    schema_discriminator: ClassVar[str] = "proposal_type"

    proposal_type: str = Field(description="the method's name")

    @classmethod
    def __pydantic_schema_base_type__(cls) -> type["TokenProposalConfig"]:
        return cls if PydanticClassRegistryMixin in cls.__bases__ else TokenProposalConfig
