"""Settings of P-EAGLE, and the fields of them that are published. Torch-free."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from speculators.models.fused_states import FusedStatesFields, FusedStatesSettings
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.untrusted import MOST
from speculators.verifier.facts import VerifierFacts


class PEagleFields(FusedStatesFields):
    """Fields that are both chosen and published; the defaults serve reading a published config alone."""

    mask_token_id: int | None = Field(default=None, description="token id of the mask")
    embed_requires_grad: bool = Field(default=True, description="the draft trains an embedding of its own")


@AlgorithmSettings.register("peagle")
class PEagleSettings(FusedStatesSettings, PEagleFields):
    """P-EAGLE in training (arXiv:2602.01469)."""

    published_fields: ClassVar[type[BaseModel]] = PEagleFields

    name: Literal["peagle"]
    num_depths: int = Field(ge=2, le=MOST, description="tokens that the draft is trained to predict in one pass")
    down_sample_ratio: float = Field(
        gt=0, le=1, description="conditional drop-token: slot s has this share of slot s - 1's rows"
    )
    down_sample_ratio_min: float = Field(
        ge=0, le=1, description="the least share of the targets that a slot has rows of"
    )
    max_anchors: Annotated[int, Field(ge=1)] | None = Field(
        description="the most targets of a packed sequence that slots from 2 on are sampled from; null is all"
    )
    mask_token_id: Annotated[int, Field(ge=0)] | None = Field(  # type: ignore[assignment] # narrower than published
        description="token id of the mask; null is the verifier's last token"
    )

    @field_validator("norm_output")
    @classmethod
    def check_feeds_nothing_back(cls, flag: bool) -> bool:
        """The field is EAGLE-3's."""
        if flag:
            raise ValueError(
                "true is read from published configs, but a draft in one pass feeds nothing back; set it to false"
            )
        return flag

    @property
    def slots(self) -> int:
        """One slot a depth; the first depth is slot 1."""
        return self.num_depths

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """EAGLE-3's fields, and the token that was chosen."""
        token = facts.vocab_size - 1 if self.mask_token_id is None else self.mask_token_id
        return super().published(facts) | {"mask_token_id": token}
