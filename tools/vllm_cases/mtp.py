"""Valid and broken MTP layers, beside a small MiMo."""

from . import LAYER, MIMO, PROPOSALS, Cases

TENSOR = "mtp_layers.0"
VERIFIER = [f"verifier.name_or_path={MIMO}", "data.regenerate=true"]

cases = Cases(
    {
        "mtp": ["algorithm=mtp", "proposal.speculative_tokens=2", *VERIFIER],
        "mtp half": ["algorithm=mtp", "export.dtype=bfloat16", *VERIFIER],
    }
)

# Sizes, which vLLM takes from the verifier's config.
cases.put("mtp", f"{LAYER}.hidden_size", 128)
cases.put("mtp", f"{LAYER}.intermediate_size", 512, 1024)
cases.put("mtp", f"{LAYER}.num_hidden_layers", 3)
cases.put("mtp", f"{LAYER}.num_attention_heads", 3, 8)
cases.put("mtp", f"{LAYER}.num_key_value_heads", 1, 4)
cases.put("mtp", f"{LAYER}.head_dim", 32)
cases.put("mtp", f"{LAYER}.vocab_size", 5000)
cases.put("mtp", f"{LAYER}.hidden_act", "gelu")
cases.put("mtp", f"{LAYER}.rms_norm_eps", 1e-3, "small")
cases.put("mtp", f"{LAYER}.rope_parameters", {"rope_type": "default", "rope_theta": 500000.0}, [])
cases.put("mtp", f"{LAYER}.max_position_embeddings", 64)
cases.put("mtp", f"{LAYER}.model_type", "qwen3", "no_such_type")
cases.drop("mtp", f"{LAYER}.hidden_size", f"{LAYER}.num_hidden_layers", f"{LAYER}.rms_norm_eps", f"{LAYER}.head_dim")

# How it is used.
cases.put("mtp", f"{PROPOSALS}.0.speculative_tokens", 0, 5)
cases.put("mtp", "num_nextn_predict_layers", 2)
cases.drop("mtp", "num_nextn_predict_layers")

# The config that vLLM reads.
cases.drop("mtp", "vllm/architectures", "vllm/model_type", "vllm/num_nextn_predict_layers", "vllm/vocab_size")
cases.put("mtp", "vllm/architectures", [], ["Qwen2ForCausalLM"], ["MiMoMTPModel"])
cases.put("mtp", "vllm/model_type", "no_such_type")
cases.put("mtp", "vllm/num_nextn_predict_layers", 4)
cases.put("mtp", "vllm/rms_norm_eps", 1e-3)
cases.put("mtp", "vllm/extra", 3)

# Its tensors.
cases.tensors("mtp", "no projection", {f"{TENSOR}.input_proj.weight": None})
cases.tensors("mtp", "no final norm", {f"{TENSOR}.final_layernorm.weight": None})
cases.tensors("mtp", "no query", {f"{TENSOR}.self_attn.q_proj.weight": None})
cases.tensors("mtp", "no bias of keys", {f"{TENSOR}.self_attn.k_proj.bias": None})
cases.tensors("mtp", "no MLP output", {f"{TENSOR}.mlp.down_proj.weight": None})
cases.tensors("mtp", "a narrow projection", {f"{TENSOR}.input_proj.weight": ["F32", [256, 256]]})
cases.tensors("mtp", "a short norm", {f"{TENSOR}.token_layernorm.weight": ["F32", [128]]})
cases.tensors("mtp", "half precision", {f"{TENSOR}.token_layernorm.weight": ["F16", [256]]})
cases.tensors("mtp", "a tensor that is none", {f"{TENSOR}.extra.weight": ["F32", [4]]})
cases.tensors("mtp", "a bias of the output", {f"{TENSOR}.self_attn.o_proj.bias": ["F32", [256]]})
cases.tensors("mtp", "a norm of queries", {f"{TENSOR}.self_attn.q_norm.weight": ["F32", [64]]})
cases.tensors("mtp", "a second layer", {"mtp_layers.1.input_proj.weight": ["F32", [256, 512]]})
cases.tensors("mtp", "a final norm of a model", {"norm.weight": ["F32", [256]]})
cases.tensors("mtp", "an embedding", {"embed_tokens.weight": ["F32", [4096, 256]]})

FROM_THE_VERIFIER = "vLLM takes it from the verifier's config"
cases.silent = {
    # keys that it reads otherwise
    f"mtp: {LAYER}.intermediate_size=512": FROM_THE_VERIFIER,
    f"mtp: {LAYER}.intermediate_size=1024": FROM_THE_VERIFIER,
    f"mtp: {LAYER}.num_attention_heads=8": FROM_THE_VERIFIER,
    f"mtp: {LAYER}.num_key_value_heads=1": FROM_THE_VERIFIER,
    f"mtp: {LAYER}.num_key_value_heads=4": FROM_THE_VERIFIER,
    f"mtp: {LAYER}.head_dim=32": FROM_THE_VERIFIER,
    f"mtp: {LAYER}.vocab_size=5000": FROM_THE_VERIFIER,
    f"mtp: {LAYER}.hidden_act='gelu'": FROM_THE_VERIFIER,
    f"mtp: {LAYER}.rms_norm_eps=0.001": FROM_THE_VERIFIER,
    f"mtp: {LAYER}.rope_parameters={{'rope_type': 'default', 'rope_theta': 500000.0}}": FROM_THE_VERIFIER,
    "mtp: vllm/rms_norm_eps=0.001": FROM_THE_VERIFIER,
    "mtp: no vllm/vocab_size": FROM_THE_VERIFIER,
    "mtp: no vllm/num_nextn_predict_layers": FROM_THE_VERIFIER,
    "mtp: vllm/num_nextn_predict_layers=4": FROM_THE_VERIFIER,
    # tensors that are not initialised
    "mtp: no query": "missing",
    "mtp: no bias of keys": "missing",
    "mtp: no MLP output": "missing",
    # tensors that are dropped
    "mtp: a bias of the output": "bias dropped",
    "mtp: a final norm of a model": "dropped",
    "mtp: an embedding": "the verifier's takes its place",
}
cases.stricter = {
    f"mtp: {LAYER}.num_attention_heads=3": "the published config has more key-value heads than divide it",
    f"mtp: {LAYER}.model_type='qwen3'": "vLLM recognises the class by its architecture, and computes MiMo's layer",
    "mtp: num_nextn_predict_layers=2": "vLLM takes the verifier's one layer; the format has one",
}
