"""DSpark's published config (arXiv:2607.05147)."""

from typing import Literal

from pydantic import Field

from speculators.config import SpeculatorModelConfig
from speculators.models.dspark.settings import DSparkFields
from speculators.models.states_config import BlockConfig


@SpeculatorModelConfig.register("dspark")
class DSparkSpeculatorConfig(DSparkFields, BlockConfig):  # in this order, for its default of sample_from_anchor
    """A block draft with a Markov head and a confidence head."""

    speculators_model_type: Literal["dspark"] = "dspark"
    architectures: list[str] = Field(
        default_factory=lambda: ["DSparkSpeculator"], description="model classes that load the weights"
    )
