"""What a window LM's checkpoint holds."""

from collections.abc import Mapping
from typing import Any

from speculators.format.layout import Layout, TensorSpec


@Layout.register("window_lm")
class WindowLMLayout(Layout):
    """An embedding, a hidden layer and a head."""

    title = "Window LM"
    paper = "https://www.jmlr.org/papers/v3/bengio03a.html"
    vocabulary_key = "vocab_size"

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """The embedding has a row more than the vocabulary: that of the places before a text."""
        vocabulary, size, width = config["vocab_size"], config["embedding_size"], config["width"]
        return {
            "embed.weight": TensorSpec((vocabulary + 1, size)),
            "hidden.weight": TensorSpec((width, config["window"] * size)),
            "hidden.bias": TensorSpec((width,)),
            "lm_head.weight": TensorSpec((vocabulary, width)),
        }
