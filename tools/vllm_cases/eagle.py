"""Valid and broken EAGLE-1 drafts."""

from . import LAYER, PROPOSALS, Cases

cases = Cases(
    {
        "eagle": ["algorithm=eagle", "proposal.speculative_tokens=2"],
        "eagle two layers": ["algorithm=eagle", "algorithm.num_hidden_layers=2"],
    }
)

# The native config that vLLM reads.
cases.put("eagle", "layernorms", True)
cases.put("eagle", "fusion_bias", True)
cases.put("eagle", "transformer_layer_architecture", "Qwen3DecoderLayer")
cases.put("eagle", f"{LAYER}.model_type", "qwen3")
cases.put("eagle", f"{LAYER}.hidden_act", "gelu")
cases.put("eagle", f"{LAYER}.hidden_size", 128)
cases.put("eagle", f"{LAYER}.vocab_size", 5000)
cases.put("eagle", f"{LAYER}.num_hidden_layers", 2)
cases.drop(
    "eagle", f"{LAYER}.hidden_size", f"{LAYER}.rms_norm_eps", f"{LAYER}.rope_parameters", f"{LAYER}.num_hidden_layers"
)
cases.put("eagle", f"{PROPOSALS}.0.speculative_tokens", 0)
cases.drop("eagle", "vllm/architectures", "vllm/model_type", "vllm/head_dim", "vllm/vocab_size")
cases.put("eagle", "vllm/architectures", [], ["Qwen2ForCausalLM"], ["EagleLlamaForCausalLM"])
cases.put("eagle", "vllm/model_type", "qwen3", "no_such_type")
cases.put("eagle", "vllm/rms_norm_eps", 1e-6)
cases.put("eagle", "vllm/num_attention_heads", 3)
cases.put("eagle", "vllm/extra", 3)
cases.tensors("eagle", "no fc.weight", {"fc.weight": None})
cases.tensors("eagle", "fc.bias", {"fc.bias": ["F32", [256]]})
cases.tensors("eagle", "a first norm", {"layers.0.input_layernorm.weight": ["F32", [256]]})
cases.tensors("eagle", "lm_head.weight", {"lm_head.weight": ["F32", [4096, 256]]})
cases.tensors("eagle", "a final norm", {"norm.weight": ["F32", [256]]})
cases.put("eagle", f"{LAYER}.rope_parameters", [])
cases.put("eagle", f"{LAYER}.layer_types", ["full_attention"] * 2)
cases.put("eagle", f"{LAYER}.rms_norm_eps", "x")
cases.put("eagle", f"{LAYER}.num_key_value_heads", None)

cases.silent = {
    # keys that vLLM reads otherwise
    "eagle: layernorms=True": "no such norms",
    "eagle: fusion_bias=True": "no such bias",
    "eagle: transformer_layer_architecture='Qwen3DecoderLayer'": "llama's layer instead",
    "eagle: transformer_layer_config.model_type='qwen3'": "llama's layer instead",
    "eagle: transformer_layer_config.vocab_size=5000": "not the verifier's vocabulary",
    "eagle: no vllm/vocab_size": "32000, LlamaConfig's default, is not the verifier's vocabulary",
    "eagle: vllm/rms_norm_eps=1e-06": "the published config, which was trained, says otherwise",
    # tensors that are not initialised
    "eagle: transformer_layer_config.num_hidden_layers=2": "no second layer",
    "eagle: no transformer_layer_config.num_hidden_layers": "32, LlamaConfig's default",
    "eagle: no fc.weight": "missing",
    # tensors that are dropped or cut
    "eagle: fc.bias": "bias dropped",
}
cases.stricter = {
    "eagle: no vllm/head_dim": "vLLM derives the same number; export always writes it",
}
