"""Tensors of an EAGLE-3 checkpoint. Torch-free."""

from speculators.format.layout import Layout
from speculators.models.fused_states import FusedStatesLayout


@Layout.register("eagle3")
class Eagle3Layout(FusedStatesLayout):
    """Only the published format: engines read it directly."""

    title = "EAGLE-3"
    paper = "https://arxiv.org/abs/2503.01840"
