"""What a thinned draft's checkpoint holds."""

from collections.abc import Mapping
from typing import Any

from speculators.format.layout import Layout, TensorSpec


@Layout.register("thinned")
class ThinnedLayout(Layout):
    """Two linear layers a slot."""

    title = "Thinned"
    paper = "https://example.org/thinned"
    vocabulary_key = "vocab_size"

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """Weights and biases."""
        size, width = config["hidden_size"], config["width"]
        specs = {}
        for s in range(config["num_slots"]):
            specs[f"up.{s}.weight"], specs[f"up.{s}.bias"] = TensorSpec((width, size)), TensorSpec((width,))
            specs[f"down.{s}.weight"], specs[f"down.{s}.bias"] = TensorSpec((size, width)), TensorSpec((size,))
        return specs
