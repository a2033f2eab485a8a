"""A tiny random model of each family of verifiers, as its own config class makes it; every kind of layer occurs."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

# That of the embedded verifier, whose tokenizer and conversations serve these models as well.
VOCAB = 4096
WINDOW = 8
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 2048, "initializer_range": 0.2, "bos_token_id": 0,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
VISION = {
    "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 16, "depth": 1, "num_heads": 2, "patch_size": 14,
    "fullatt_block_indexes": [0],
}  # fmt: skip


def _config(name: str, **changes: Any) -> PreTrainedConfig:
    kind: Any = getattr(transformers, f"{name}Config")
    return kind(**{k: v for k, v in (SIZES | changes).items() if v is not None})


def _deepseek_v3() -> PreTrainedConfig:
    return _config(
        "DeepseekV3", num_key_value_heads=2, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        n_group=2, topk_group=1, first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8,
    )  # fmt: skip


def _granite() -> PreTrainedConfig:
    return _config(
        "Granite", logits_scaling=4.0, residual_multiplier=0.5, embedding_multiplier=3.0, attention_multiplier=0.3
    )


def _llama4() -> PreTrainedConfig:
    kinds = ["chunked_attention", "full_attention"] * 2
    return _config("Llama4Text", head_dim=16, intermediate_size_mlp=48, num_local_experts=2, attention_chunk_size=WINDOW,
                   layer_types=kinds)  # fmt: skip


def _qwen2_5_vl() -> PreTrainedConfig:
    text = {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=VISION, tie_word_embeddings=False)


FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: _config("Llama"),
    "qwen2": lambda: _config("Qwen2"),
    "qwen3": lambda: _config("Qwen3", head_dim=16),
    "qwen3_moe": lambda: _config("Qwen3Moe", head_dim=16, **EXPERTS),
    "qwen3_next": lambda: _config("Qwen3Next", head_dim=16, shared_expert_intermediate_size=16, **EXPERTS, **LINEAR),
    "qwen3_5": lambda: _config("Qwen3_5Text", head_dim=16, **LINEAR),
    "mistral": lambda: _config("Mistral", sliding_window=WINDOW),
    "gemma2": lambda: _config("Gemma2", head_dim=16, query_pre_attn_scalar=16, **SLIDING),
    "gemma3": lambda: _config("Gemma3Text", head_dim=16, query_pre_attn_scalar=16, **SLIDING),
    "phi3": lambda: _config("Phi3"),
    "phi": lambda: _config("Phi", partial_rotary_factor=0.5),
    "glm4": lambda: _config("Glm4", head_dim=16, partial_rotary_factor=0.5),
    "cohere": lambda: _config("Cohere", logit_scale=0.25),
    "granite": _granite,
    "gpt_oss": lambda: _config("GptOss", head_dim=16, num_local_experts=4, num_experts_per_tok=2, **SLIDING),
    "olmo2": lambda: _config("Olmo2"),
    "deepseek_v3": _deepseek_v3,
    "smollm3": lambda: _config("SmolLM3", no_rope_layers=[1, 0, 1, 0]),
    "llama4": _llama4,
    "qwen2_5_vl": _qwen2_5_vl,
}


def random_model(name: str) -> PreTrainedModel:
    """The model of a family; every parameter is random, biases and norms as well."""
    torch.manual_seed(0)
    auto: Any = AutoModelForImageTextToText if name == "qwen2_5_vl" else AutoModelForCausalLM
    model = auto.from_config(FAMILIES[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()
