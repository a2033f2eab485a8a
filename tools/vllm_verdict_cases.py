"""The drafts that `vllm_verdicts.py` asks vLLM about: bases as this project publishes them, each changed in one place."""

from typing import Any

THREE = "algorithm.eagle_aux_hidden_state_layer_ids=[1,3,5]"
BASES = {
    "eagle3": ["algorithm=eagle3", THREE, "algorithm.draft_vocab_size=1024", "proposal.speculative_tokens=2"],
    "eagle3 whole vocabulary": ["algorithm=eagle3", "proposal.speculative_tokens=2"],
    "eagle3 qwen3": ["algorithm=eagle3", THREE, "algorithm.draft_arch=qwen3", "algorithm.num_hidden_layers=2"],
    "eagle3 fc_norm": ["algorithm=eagle3", THREE, "algorithm.fc_norm=true"],
    "eagle3 norm_before_fc": ["algorithm=eagle3", THREE, "algorithm.norm_before_fc=true"],
    "eagle3 own embedding": ["algorithm=eagle3", THREE, "algorithm.embed_requires_grad=true"],
    "eagle": ["algorithm=eagle", "proposal.speculative_tokens=2"],
    "eagle two layers": ["algorithm=eagle", "algorithm.num_hidden_layers=2"],
    "medusa": ["algorithm=medusa", "algorithm.num_heads=3", "proposal.speculative_tokens=3"],
    "medusa shared": [
        *("algorithm=medusa", "algorithm.num_heads=3", "proposal.speculative_tokens=2"),
        *("algorithm.original_lm_head=true", "algorithm.truncated_vocab_size=1024", "algorithm.medusa_fc_bias=true"),
    ],
}
CASES: list[dict[str, Any]] = [{"name": name, "base": name} for name in BASES]
LAYER, IDS = "transformer_layer_config", "eagle_aux_hidden_state_layer_ids"
USAGE = "speculators_config"
PROPOSALS, VERIFIER = f"{USAGE}.proposal_methods", f"{USAGE}.verifier"


def put(base: str, key: str, *values: Any) -> None:
    """A case for each value at a dotted path; `vllm/...` is in the native config alone."""
    CASES.extend({"name": f"{base}: {key}={value!r}", "base": base, "set": {key: value}} for value in values)


def drop(base: str, *keys: str) -> None:
    """A case for each key that is missing."""
    CASES.extend({"name": f"{base}: no {key}", "base": base, "delete": [key]} for key in keys)


def tensors(base: str, what: str, values: dict[str, Any]) -> None:
    """A case with other tensors: kind and shape, or None for one that is missing."""
    CASES.append({"name": f"{base}: {what}", "base": base, "tensors": values})


def both(base: str, what: str, values: dict[str, Any], gone: list[str]) -> None:
    """A case with several changes."""
    CASES.append({"name": f"{base}: {what}", "base": base, "set": values, "delete": gone})


# What makes it a speculator.
drop("eagle3", "speculators_model_type", "speculators_version", "architectures", USAGE, LAYER)
put("eagle3", "speculators_model_type", "eagel3", "eagle", "peagle", None)
put("eagle3", "model_type", "llama", "speculators", "eagle3")
put("eagle3", "architectures", [], ["NoSuchModel"], None)
put("eagle3", "auto_map", {"AutoModel": "modeling.Model"})
put("eagle3", "quantization_config", {"quant_method": "no_such_method"})
put("eagle3", "dtype", "float99", "bfloat16", None)

# How it is used.
drop("eagle3", PROPOSALS, f"{PROPOSALS}.0.speculative_tokens", f"{PROPOSALS}.0.proposal_type")
drop("eagle3", f"{USAGE}.algorithm", f"{USAGE}.default_proposal_method")
put("eagle3", PROPOSALS, [], None)
put("eagle3", f"{PROPOSALS}.0.speculative_tokens", 0, -1, None, "3", 2.5, True, 7)
put("eagle3", f"{PROPOSALS}.0.proposal_type", "tree")
put("eagle3", f"{PROPOSALS}.0.verifier_accept_k", 4)
put("eagle3", f"{USAGE}.default_proposal_method", "tree")
put("eagle3", f"{USAGE}.algorithm", "eagle")
put("eagle3", USAGE, [], "eagle3")
drop("eagle3", VERIFIER, f"{VERIFIER}.name_or_path", f"{VERIFIER}.architectures")
put("eagle3", f"{VERIFIER}.name_or_path", None, "/no/such/folder", "no/such-model")
put("eagle3", f"{VERIFIER}.architectures", ["Qwen3ForCausalLM"])

# Keys that nobody reads.
put("eagle3", "norm_befor_fc", True)
put("eagle3", "block_size", 8)
put("eagle3", f"{LAYER}.hiden_size", 256)

# The algorithm's own.
drop("eagle3", "norm_before_residual", "norm_before_fc", "fc_norm", "norm_output", "embed_requires_grad")
put("eagle3", "norm_before_residual", True, "yes")
put("eagle3", "norm_output", True)
put("eagle3", "norm_before_fc", True)
put("eagle3", "fc_norm", True)
put("eagle3 fc_norm", "fc_norm", False)
put("eagle3 fc_norm", "norm_before_fc", True)
put("eagle3 norm_before_fc", "norm_before_fc", False)
put("eagle3", "embed_requires_grad", True)
drop("eagle3", "draft_vocab_size", "target_hidden_size", IDS)
put("eagle3", "draft_vocab_size", 512, 2048, 4096, 8192, 0, "1024", None)
put("eagle3 whole vocabulary", "draft_vocab_size", None, 1024, 8192)
drop("eagle3 whole vocabulary", "draft_vocab_size", IDS, f"{LAYER}.num_aux_hidden_states")
put("eagle3", "target_hidden_size", 128, 0, None)
put("eagle3", IDS, None, [], [5, 3, 1], [1, 1, 5], [1, 3], [1, 2, 3, 4], [0, 3, 6], [1, 3, 7], [-1, 3, 5])
put("eagle3", IDS, ["1", "3", "5"], 3)

# Its decoder layers.
put("eagle3", LAYER, [], None)
drop(
    "eagle3",
    *(f"{LAYER}.{key}" for key in ("model_type", "architectures", "hidden_size", "intermediate_size", "vocab_size")),
    *(f"{LAYER}.{key}" for key in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")),
    *(f"{LAYER}.{key}" for key in ("hidden_act", "rms_norm_eps", "max_position_embeddings", "rope_parameters")),
    *(f"{LAYER}.{key}" for key in ("attention_bias", "mlp_bias", "tie_word_embeddings")),
)
put("eagle3", f"{LAYER}.model_type", "gemma", "qwen3", "qwen2")
put("eagle3", f"{LAYER}.hidden_size", 128, "256")
put("eagle3", f"{LAYER}.intermediate_size", 512)
put("eagle3", f"{LAYER}.num_hidden_layers", 0, 2)
put("eagle3", f"{LAYER}.num_attention_heads", 3, 8, 0)
put("eagle3", f"{LAYER}.num_key_value_heads", 3, 1, None)
put("eagle3", f"{LAYER}.head_dim", 48, 65, 0, None)
put("eagle3", f"{LAYER}.hidden_act", "gelu", "silly", None)
put("eagle3", f"{LAYER}.rms_norm_eps", "small", 1e-6)
put("eagle3", f"{LAYER}.vocab_size", 4000, 5000)
put("eagle3", f"{LAYER}.max_position_embeddings", 16, "long")
put("eagle3", f"{LAYER}.rope_parameters", None, {"rope_theta": 10000.0}, {"rope_type": "default"})
put("eagle3", f"{LAYER}.rope_parameters", {"rope_type": "swirl", "rope_theta": 10000.0})
put("eagle3", f"{LAYER}.rope_parameters", {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0})
put("eagle3", f"{LAYER}.rope_parameters", {"rope_type": "linear", "rope_theta": 10000.0})
put("eagle3", f"{LAYER}.rope_parameters", {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]})
both("eagle3", "rope_theta alone", {f"{LAYER}.rope_theta": 10000.0}, [f"{LAYER}.rope_parameters"])
both(
    "eagle3",
    "rope_theta and rope_scaling",
    {f"{LAYER}.rope_theta": 10000.0, f"{LAYER}.rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    [f"{LAYER}.rope_parameters"],
)
put("eagle3", f"{LAYER}.layer_types", ["full_attention"], ["full_attention"] * 2, ["half_attention"])
both("eagle3", "sliding", {f"{LAYER}.layer_types": ["sliding_attention"], f"{LAYER}.sliding_window": 32}, [])
put("eagle3", f"{LAYER}.attention_bias", True)
put("eagle3", f"{LAYER}.mlp_bias", True)
put("eagle3", f"{LAYER}.tie_word_embeddings", True)
put("eagle3", f"{LAYER}.num_aux_hidden_states", 2, 3)
put("eagle3 qwen3", f"{LAYER}.num_hidden_layers", 1)
put("eagle3 qwen3", f"{LAYER}.model_type", "llama")

# Its tensors.
FC = {"fc.weight": ["F32", [256, 768]]}
tensors("eagle3", "no fc.weight", {"fc.weight": None})
tensors("eagle3", "no norm.weight", {"norm.weight": None})
tensors("eagle3", "no lm_head.weight", {"lm_head.weight": None})
tensors("eagle3", "no d2t", {"d2t": None})
tensors("eagle3", "no t2d", {"t2d": None})
tensors("eagle3", "d2t of I32", {"d2t": ["I32", [1024]]})
tensors("eagle3", "short d2t", {"d2t": ["I64", [1000]]})
tensors("eagle3", "a norm of the wrong shape", {"norm.weight": ["F32", [128]]})
tensors("eagle3", "an fc of the wrong shape", {"fc.weight": ["F32", [256, 512]]})
tensors("eagle3", "half precision", {"fc.weight": ["F16", [256, 768]]})
tensors("eagle3", "fc.bias", {"fc.bias": ["F32", [256]]})
tensors("eagle3", "a tensor that is none", {"extra.weight": ["F32", [4]]})
tensors("eagle3", "names with model.", {"fc.weight": None, "model.fc.weight": ["F32", [256, 768]]})
tensors("eagle3", "verifier_lm_head.weight", {"verifier_lm_head.weight": ["F32", [1024, 256]]})
tensors("eagle3", "embed_tokens.weight", {"embed_tokens.weight": ["F32", [4096, 256]]})
tensors("eagle3", "a short embed_tokens.weight", {"embed_tokens.weight": ["F32", [1024, 256]]})
tensors("eagle3", "input_norm.weight", {"input_norm.weight": ["F32", [768]]})
tensors("eagle3", "fc_norm.0.weight", {"fc_norm.0.weight": ["F32", [256]]})
tensors("eagle3 whole vocabulary", "no lm_head.weight", {"lm_head.weight": None})
tensors("eagle3 whole vocabulary", "d2t", {"d2t": ["I64", [4096]]})

# The layout of vLLM's own that EAGLE-1 has.
put("eagle", "layernorms", True)
put("eagle", "fusion_bias", True)
put("eagle", "transformer_layer_architecture", "Qwen3DecoderLayer")
put("eagle", f"{LAYER}.model_type", "qwen3")
put("eagle", f"{LAYER}.hidden_act", "gelu")
put("eagle", f"{LAYER}.hidden_size", 128)
put("eagle", f"{LAYER}.vocab_size", 5000)
put("eagle", f"{LAYER}.num_hidden_layers", 2)
drop("eagle", f"{LAYER}.hidden_size", f"{LAYER}.rms_norm_eps", f"{LAYER}.rope_parameters", f"{LAYER}.num_hidden_layers")
put("eagle", f"{PROPOSALS}.0.speculative_tokens", 0)
drop("eagle", "vllm/architectures", "vllm/model_type", "vllm/head_dim", "vllm/vocab_size")
put("eagle", "vllm/architectures", [], ["Qwen2ForCausalLM"], ["EagleLlamaForCausalLM"])
put("eagle", "vllm/model_type", "qwen3", "no_such_type")
put("eagle", "vllm/rms_norm_eps", 1e-6)
put("eagle", "vllm/num_attention_heads", 3)
put("eagle", "vllm/extra", 3)
tensors("eagle", "no fc.weight", {"fc.weight": None})
tensors("eagle", "fc.bias", {"fc.bias": ["F32", [256]]})
tensors("eagle", "a first norm", {"layers.0.input_layernorm.weight": ["F32", [256]]})
tensors("eagle", "lm_head.weight", {"lm_head.weight": ["F32", [4096, 256]]})
tensors("eagle", "a final norm", {"norm.weight": ["F32", [256]]})

# Medusa's.
put("medusa", "num_heads", 2, 5)
put("medusa", "hidden_size", 128)
put("medusa", "vocab_size", 4000)
put("medusa", "num_hidden_layers", 2, 0)
put("medusa", "medusa_fc_bias", True)
put("medusa", "original_lm_head", True)
put("medusa", "truncated_vocab_size", 1024)
put("medusa", f"{PROPOSALS}.0.speculative_tokens", 2, 4)
drop("medusa", "hidden_size", "vocab_size", "num_heads", "vllm/architectures", "vllm/model_type")
put("medusa", "vllm/num_attention_heads", 4)
put("medusa", "vllm/architectures", ["NoSuchModel"])
tensors("medusa", "no lm_heads.2.weight", {"lm_heads.2.weight": None})
tensors("medusa", "no blocks.2.layers.0.weight", {"blocks.2.layers.0.weight": None})
tensors("medusa", "a bias", {"blocks.0.layers.0.bias": ["F32", [256]]})
tensors("medusa", "lm_head.weight", {"lm_head.weight": ["F32", [4096, 256]]})
tensors("medusa shared", "no token_map", {"token_map": None})
tensors("medusa shared", "no bias", {f"blocks.{i}.layers.0.bias": None for i in range(3)})

# Further types and kinds of what the layers are built from.
ROPE = f"{LAYER}.rope_parameters"
LONG = {"short_factor": [1.0] * 32, "long_factor": [1.0] * 32}
put("eagle3", ROPE, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0})
put("eagle3", ROPE, {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
put("eagle3", ROPE, {"rope_type": "proportional", "rope_theta": 10000.0})
put("eagle3", ROPE, {"rope_type": "default", "rope_theta": "x"}, {"rope_type": "linear", "factor": "x"})
both("eagle3", "longrope", {ROPE: {"rope_type": "longrope", "rope_theta": 10000.0, **LONG}}, [])
put("eagle3", f"{LAYER}.layer_types", ["sliding_attention"])
both(
    "eagle3 qwen3",
    "mixed attention",
    {f"{LAYER}.layer_types": ["full_attention", "sliding_attention"], f"{LAYER}.sliding_window": 32},
    [],
)
put("eagle3", f"{LAYER}.quantization_config", {"quant_method": "no_such_method"})
put("eagle3", f"{LAYER}.eagle_config", {"use_aux_hidden_state": False}, [1])
put("eagle3", f"{LAYER}.logit_scale", "x", 0.5)
put("eagle3", f"{LAYER}.attention_bias", "x", 1)
put("eagle3", f"{LAYER}.sliding_window", "x")
put("eagle3", f"{LAYER}.num_aux_hidden_states", "3", 0)
put("medusa", f"{PROPOSALS}.0.speculative_tokens", "3")
put("medusa", "medusa_fc_bias", "x")
put("medusa", "num_hidden_layers", "1")
put("eagle", f"{LAYER}.rope_parameters", [])
put("eagle", f"{LAYER}.layer_types", ["full_attention"] * 2)
put("eagle", f"{LAYER}.rms_norm_eps", "x")
put("eagle", f"{LAYER}.num_key_value_heads", None)
