"""Tensors of a DFlash checkpoint. Torch-free."""

from speculators.format.layout import Layout
from speculators.models.block_layout import BlockLayout


@Layout.register("dflash")
class DFlashLayout(BlockLayout):
    """The shared layers alone."""

    title = "DFlash"
    paper = "https://arxiv.org/abs/2602.06036"
