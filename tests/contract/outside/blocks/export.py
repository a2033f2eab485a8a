"""What a blocks draft's checkpoint holds."""

from collections.abc import Mapping
from typing import Any

from speculators.format.layout import Layout, TensorSpec


@Layout.register("blocks")
class BlocksLayout(Layout):
    """The network, the two factors of the Markov term, the confidence head."""

    title = "Blocks"
    paper = "https://example.org/blocks"
    vocabulary_key = "vocab_size"

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """Weights and biases."""
        size, width, rank, vocab = (config[k] for k in ("hidden_size", "width", "markov_rank", "vocab_size"))
        return {
            "place.weight": TensorSpec((config["block_size"], size)),
            "up.weight": TensorSpec((width, size)),
            "up.bias": TensorSpec((width,)),
            "down.weight": TensorSpec((size, width)),
            "down.bias": TensorSpec((size,)),
            "markov_w1.weight": TensorSpec((vocab, rank)),
            "markov_w2.weight": TensorSpec((vocab, rank)),
            "confidence.weight": TensorSpec((1, size + rank)),
            "confidence.bias": TensorSpec((1,)),
        }
