"""Settings of DFlash (arXiv:2602.06036). Torch-free."""

from typing import ClassVar, Literal

from pydantic import BaseModel

from speculators.models.block_settings import BlockFields, BlockSettings
from speculators.settings.algorithm import AlgorithmSettings


@AlgorithmSettings.register("dflash")
class DFlashSettings(BlockSettings):
    """Blocks after sampled anchors, their slots weighted by D-PACE (arXiv:2605.18810)."""

    published_fields: ClassVar[type[BaseModel]] = BlockFields

    name: Literal["dflash"]
