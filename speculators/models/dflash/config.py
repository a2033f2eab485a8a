"""DFlash's published config (arXiv:2602.06036)."""

from typing import Literal

from pydantic import Field

from speculators.config import SpeculatorModelConfig
from speculators.models.states_config import BlockConfig


@SpeculatorModelConfig.register("dflash")
class DFlashSpeculatorConfig(BlockConfig):
    """A draft that fills in the mask tokens of a block."""

    speculators_model_type: Literal["dflash"] = "dflash"
    architectures: list[str] = Field(
        default_factory=lambda: ["DFlashSpeculator"], description="model classes that load the weights"
    )
