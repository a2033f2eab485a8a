"""Tiny verifiers with every kind of attention layer that decoding knows."""

from typing import Any

import pytest
import torch
from transformers import GptOssConfig, LlamaConfig, MistralConfig, PreTrainedModel, Qwen3Config
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from speculators.verifier.in_process import Verifier

VOCAB = 40
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.3,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
WINDOW = 5
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
KINDS: dict[str, Any] = {
    "full": LlamaConfig(**SIZES),
    "eager": LlamaConfig(**SIZES, attn_implementation="eager"),
    "window": MistralConfig(**SIZES, sliding_window=WINDOW),
    "mixed": Qwen3Config(**SIZES, sliding_window=WINDOW, use_sliding_window=True, layer_types=MIXED),
    # Layers with attention sinks have no other implementation than eager attention.
    "sinks": GptOssConfig(
        **SIZES, sliding_window=WINDOW, layer_types=MIXED, num_local_experts=2, num_experts_per_tok=1
    ),
}


@pytest.fixture(scope="session", params=list(KINDS))
def verifier(request: pytest.FixtureRequest) -> Verifier:
    """A random verifier whose text never ends by itself."""
    torch.manual_seed(0)
    config = KINDS[request.param]
    model: PreTrainedModel = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    return Verifier(model.float())
