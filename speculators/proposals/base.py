"""Base classes of the published settings of proposal methods, and of those that draft chains. Torch-free."""

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from speculators.utils.pydantic_utils import PydanticClassRegistryMixin


class TokenProposalConfig(PydanticClassRegistryMixin):
    """How tokens are proposed and when they are accepted; each folder beside this file registers a method."""

    schema_discriminator: ClassVar[str] = "proposal_type"

    # Whether a node of the draft may have several children: only some draft models and engines can do that.
    is_tree: ClassVar[bool] = False
    # Settings that are passed to an engine, in the published config or by `serving_options`.
    served: ClassVar[frozenset[str]] = frozenset({"proposal_type", "speculative_tokens"})
    # The setting to lower for a draft model that cannot draft as far ahead as `levels`.
    levels_key: ClassVar[str] = "speculative_tokens"

    proposal_type: str = Field(description="the method's name")

    @classmethod
    def __pydantic_schema_base_type__(cls) -> type["TokenProposalConfig"]:
        return cls if PydanticClassRegistryMixin in cls.__bases__ else TokenProposalConfig

    @classmethod
    def named(cls, name: str) -> type["TokenProposalConfig"] | None:
        """The settings class registered as `name`; None if there is none."""
        found = (cls.registry or {}).get(name)
        return found if found is not None and issubclass(found, TokenProposalConfig) else None

    @property
    def levels(self) -> int:
        """Levels of a draft, >= 1: the most tokens that one pass of the verifier can accept."""
        raise NotImplementedError(f"{type(self).__name__} must implement levels")

    @property
    def nodes(self) -> int:
        """The most drafted tokens that one pass of the verifier verifies, >= levels."""
        raise NotImplementedError(f"{type(self).__name__} must implement nodes")

    def with_tokens(self, tokens: int) -> "TokenProposalConfig":
        """This method with `tokens` drafted tokens, >= 1; itself if their number follows from its other settings."""
        if "speculative_tokens" not in type(self).model_fields:
            return self
        values = self.model_dump() | {"speculative_tokens": tokens}
        # A path is no longer than there are tokens.
        values[self.levels_key] = min(values[self.levels_key], tokens)
        return type(self).model_validate(values)

    @property
    def nested(self) -> bool:
        """Whether a greedy draft with fewer levels, other settings alike, is the first levels of one with more."""
        return False

    def serving_options(self) -> dict[str, str]:
        """Options, named as in vLLM's `--speculative-config`, that make an engine draft and judge by this method."""
        return {}

    def lossy(self, temperature: float) -> str | None:
        """Which setting makes the text differ from the verifier's own, and how; None if the text does not differ.

        Args:
            temperature: of the verifier's sampling; 0 is greedy.
        """
        return None

    def problems(self, temperature: float) -> Iterator[tuple[str, Any, str]]:
        """Settings that have no effect or contradict each other.

        Args:
            temperature: of the verifier's sampling; 0 is greedy.

        Yields:
            The setting's key inside `proposal`, its value, and the rule with the remedy.
        """
        yield from ()


class ChainProposalConfig(TokenProposalConfig):
    """Base of the methods that draft a chain: one token a level."""

    speculative_tokens: int = Field(default=5, ge=1, description="tokens drafted for each pass of the verifier")

    @property
    def levels(self) -> int:
        """One level a token."""
        return self.speculative_tokens

    @property
    def nodes(self) -> int:
        """One token a level."""
        return self.speculative_tokens

    @property
    def nested(self) -> bool:
        """Tokens are drafted one after another."""
        return True
