"""Valid and broken EAGLE-3 drafts."""

from . import IDS, LAYER, PROPOSALS, USAGE, VERIFIER, Cases

THREE = "algorithm.eagle_aux_hidden_state_layer_ids=[1,3,5]"
# The paper's, without norms: a case adds those that it is about.
EAGLE3 = ("algorithm=eagle3", "algorithm.fc_norm=false", "algorithm.norm_output=false")
cases = Cases(
    {
        "eagle3": [*EAGLE3, THREE, "algorithm.draft_vocab_size=1024", "proposal.speculative_tokens=2"],
        "eagle3 whole vocabulary": [*EAGLE3, "proposal.speculative_tokens=2"],
        "eagle3 qwen3": [*EAGLE3, THREE, "algorithm.draft_arch=qwen3", "algorithm.num_hidden_layers=2"],
        "eagle3 fc_norm": [*EAGLE3, THREE, "algorithm.fc_norm=true"],
        "eagle3 norm_before_fc": [*EAGLE3, THREE, "algorithm.norm_before_fc=true"],
        "eagle3 sliding": [*EAGLE3, THREE, "algorithm.sliding_window=32"],
        "eagle3 qwen3 sliding": [*EAGLE3, THREE, "algorithm.draft_arch=qwen3", "algorithm.sliding_window=32"],
        "eagle3 own embedding": [*EAGLE3, THREE, "algorithm.embed_requires_grad=true"],
    }
)

# The keys by which vLLM recognises a speculator.
cases.drop("eagle3", "speculators_model_type", "speculators_version", "architectures", USAGE, LAYER)
cases.put("eagle3", "speculators_model_type", "eagel3", "eagle", "peagle", None)
cases.put("eagle3", "model_type", "llama", "speculators", "eagle3")
cases.put("eagle3", "architectures", [], ["NoSuchModel"], None)
cases.put("eagle3", "auto_map", {"AutoModel": "modeling.Model"})
cases.put("eagle3", "quantization_config", {"quant_method": "no_such_method"})
cases.put("eagle3", "dtype", "float99", "bfloat16", None)

# speculators_config.
cases.drop("eagle3", PROPOSALS, f"{PROPOSALS}.0.speculative_tokens", f"{PROPOSALS}.0.proposal_type")
cases.drop("eagle3", f"{USAGE}.algorithm", f"{USAGE}.default_proposal_method")
cases.put("eagle3", PROPOSALS, [], None)
cases.put("eagle3", f"{PROPOSALS}.0.speculative_tokens", 0, -1, None, "3", 2.5, True, 7)
cases.put("eagle3", f"{PROPOSALS}.0.proposal_type", "tree")
cases.put("eagle3", f"{PROPOSALS}.0.verifier_accept_k", 4)
cases.put("eagle3", f"{USAGE}.default_proposal_method", "tree")
cases.put("eagle3", f"{USAGE}.algorithm", "eagle")
cases.put("eagle3", USAGE, [], "eagle3")
cases.drop("eagle3", VERIFIER, f"{VERIFIER}.name_or_path", f"{VERIFIER}.architectures")
cases.put("eagle3", f"{VERIFIER}.name_or_path", None, "/no/such/folder", "no/such-model")
cases.put("eagle3", f"{VERIFIER}.architectures", ["Qwen3ForCausalLM"])

# Keys that are not read.
cases.put("eagle3", "norm_befor_fc", True)
cases.put("eagle3", "block_size", 8)
cases.put("eagle3", f"{LAYER}.hiden_size", 256)

# The algorithm's own keys.
cases.drop("eagle3", "norm_before_residual", "norm_before_fc", "fc_norm", "norm_output", "embed_requires_grad")
cases.put("eagle3", "norm_before_residual", True, "yes")
cases.put("eagle3", "norm_output", True)
cases.put("eagle3", "norm_before_fc", True)
cases.put("eagle3", "fc_norm", True)
cases.put("eagle3 fc_norm", "fc_norm", False)
cases.put("eagle3 fc_norm", "norm_before_fc", True)
cases.put("eagle3 norm_before_fc", "norm_before_fc", False)
cases.put("eagle3", "embed_requires_grad", True)
cases.drop("eagle3", "draft_vocab_size", "target_hidden_size", IDS)
cases.put("eagle3", "draft_vocab_size", 512, 2048, 4096, 8192, 0, "1024", None)
cases.put("eagle3 whole vocabulary", "draft_vocab_size", None, 1024, 8192)
cases.drop("eagle3 whole vocabulary", "draft_vocab_size", IDS, f"{LAYER}.num_aux_hidden_states")
cases.put("eagle3", "target_hidden_size", 128, 0, None)
cases.put("eagle3", IDS, None, [], [5, 3, 1], [1, 1, 5], [1, 3], [1, 2, 3, 4], [0, 3, 6], [1, 3, 7], [-1, 3, 5])
cases.put("eagle3", IDS, ["1", "3", "5"], 3)

# The decoder layers' config.
cases.put("eagle3", LAYER, [], None)
cases.drop(
    "eagle3",
    *(f"{LAYER}.{key}" for key in ("model_type", "architectures", "hidden_size", "intermediate_size", "vocab_size")),
    *(f"{LAYER}.{key}" for key in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")),
    *(f"{LAYER}.{key}" for key in ("hidden_act", "rms_norm_eps", "max_position_embeddings", "rope_parameters")),
    *(f"{LAYER}.{key}" for key in ("attention_bias", "mlp_bias", "tie_word_embeddings")),
)
cases.put("eagle3", f"{LAYER}.model_type", "gemma", "qwen3", "qwen2")
cases.put("eagle3", f"{LAYER}.hidden_size", 128, "256")
cases.put("eagle3", f"{LAYER}.intermediate_size", 512)
cases.put("eagle3", f"{LAYER}.num_hidden_layers", 0, 2)
cases.put("eagle3", f"{LAYER}.num_attention_heads", 3, 8, 0)
cases.put("eagle3", f"{LAYER}.num_key_value_heads", 3, 1, None)
cases.put("eagle3", f"{LAYER}.head_dim", 48, 65, 0, None)
cases.put("eagle3", f"{LAYER}.hidden_act", "gelu", "silly", None)
cases.put("eagle3", f"{LAYER}.rms_norm_eps", "small", 1e-6)
cases.put("eagle3", f"{LAYER}.vocab_size", 4000, 5000)
cases.put("eagle3", f"{LAYER}.max_position_embeddings", 16, "long")
cases.put("eagle3", f"{LAYER}.rope_parameters", None, {"rope_theta": 10000.0}, {"rope_type": "default"})
cases.put("eagle3", f"{LAYER}.rope_parameters", {"rope_type": "swirl", "rope_theta": 10000.0})
cases.put("eagle3", f"{LAYER}.rope_parameters", {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0})
cases.put("eagle3", f"{LAYER}.rope_parameters", {"rope_type": "linear", "rope_theta": 10000.0})
cases.put(
    "eagle3", f"{LAYER}.rope_parameters", {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]}
)
cases.both("eagle3", "rope_theta alone", {f"{LAYER}.rope_theta": 10000.0}, [f"{LAYER}.rope_parameters"])
cases.both(
    "eagle3",
    "rope_theta and rope_scaling",
    {f"{LAYER}.rope_theta": 10000.0, f"{LAYER}.rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    [f"{LAYER}.rope_parameters"],
)
cases.put("eagle3", f"{LAYER}.layer_types", ["full_attention"], ["full_attention"] * 2, ["half_attention"])
cases.both("eagle3", "sliding", {f"{LAYER}.layer_types": ["sliding_attention"], f"{LAYER}.sliding_window": 32})
cases.put("eagle3", f"{LAYER}.attention_bias", True)
cases.put("eagle3", f"{LAYER}.mlp_bias", True)
cases.put("eagle3", f"{LAYER}.tie_word_embeddings", True)
cases.put("eagle3", f"{LAYER}.num_aux_hidden_states", 2, 3)
cases.put("eagle3 qwen3", f"{LAYER}.num_hidden_layers", 1)
cases.put("eagle3 qwen3", f"{LAYER}.model_type", "llama")

# Tensors.
cases.tensors("eagle3", "no fc.weight", {"fc.weight": None})
cases.tensors("eagle3", "no norm.weight", {"norm.weight": None})
cases.tensors("eagle3", "no lm_head.weight", {"lm_head.weight": None})
cases.tensors("eagle3", "no d2t", {"d2t": None})
cases.tensors("eagle3", "no t2d", {"t2d": None})
cases.tensors("eagle3", "d2t of I32", {"d2t": ["I32", [1024]]})
cases.tensors("eagle3", "short d2t", {"d2t": ["I64", [1000]]})
cases.tensors("eagle3", "a norm of the wrong shape", {"norm.weight": ["F32", [128]]})
cases.tensors("eagle3", "an fc of the wrong shape", {"fc.weight": ["F32", [256, 512]]})
cases.tensors("eagle3", "half precision", {"fc.weight": ["F16", [256, 768]]})
cases.tensors("eagle3", "fc.bias", {"fc.bias": ["F32", [256]]})
cases.tensors("eagle3", "a tensor that is none", {"extra.weight": ["F32", [4]]})
cases.tensors("eagle3", "names with model.", {"fc.weight": None, "model.fc.weight": ["F32", [256, 768]]})
cases.tensors("eagle3", "verifier_lm_head.weight", {"verifier_lm_head.weight": ["F32", [1024, 256]]})
cases.tensors("eagle3", "embed_tokens.weight", {"embed_tokens.weight": ["F32", [4096, 256]]})
cases.tensors("eagle3", "a short embed_tokens.weight", {"embed_tokens.weight": ["F32", [1024, 256]]})
cases.tensors("eagle3", "input_norm.weight", {"input_norm.weight": ["F32", [768]]})
cases.tensors("eagle3", "fc_norm.0.weight", {"fc_norm.0.weight": ["F32", [256]]})
cases.tensors("eagle3 whole vocabulary", "no lm_head.weight", {"lm_head.weight": None})
cases.tensors("eagle3 whole vocabulary", "d2t", {"d2t": ["I64", [4096]]})

# Further types of the decoder layers' config.
ROPE = f"{LAYER}.rope_parameters"
LONG = {"short_factor": [1.0] * 32, "long_factor": [1.0] * 32}
cases.put("eagle3", ROPE, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0})
cases.put("eagle3", ROPE, {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
cases.put("eagle3", ROPE, {"rope_type": "proportional", "rope_theta": 10000.0})
cases.put("eagle3", ROPE, {"rope_type": "default", "rope_theta": "x"}, {"rope_type": "linear", "factor": "x"})
cases.both("eagle3", "longrope", {ROPE: {"rope_type": "longrope", "rope_theta": 10000.0, **LONG}})
cases.put("eagle3", f"{LAYER}.layer_types", ["sliding_attention"])
cases.both(
    "eagle3 qwen3",
    "mixed attention",
    {f"{LAYER}.layer_types": ["full_attention", "sliding_attention"], f"{LAYER}.sliding_window": 32},
)
cases.put("eagle3", f"{LAYER}.quantization_config", {"quant_method": "no_such_method"})
cases.put("eagle3", f"{LAYER}.eagle_config", {"use_aux_hidden_state": False}, [1])
cases.put("eagle3", f"{LAYER}.logit_scale", "x", 0.5)
cases.put("eagle3", f"{LAYER}.attention_bias", "x", 1)
cases.put("eagle3", f"{LAYER}.sliding_window", "x")
cases.put("eagle3", f"{LAYER}.num_aux_hidden_states", "3", 0)

# Windows, as this project writes them.
cases.put("eagle3 sliding", f"{LAYER}.sliding_window", None, 4096)
cases.drop("eagle3 sliding", f"{LAYER}.use_sliding_window")
cases.drop("eagle3 qwen3 sliding", f"{LAYER}.sliding_window", f"{LAYER}.use_sliding_window")

cases.silent = {
    # keys that vLLM reads otherwise
    "eagle3: no norm_before_residual": "vLLM takes true, the format false",
    "eagle3: eagle_aux_hidden_state_layer_ids=[5, 3, 1]": "sorted before the states are joined",
    "eagle3: transformer_layer_config.vocab_size=4000": "not the verifier's vocabulary",
    "eagle3: transformer_layer_config.vocab_size=5000": "not the verifier's vocabulary",
    "eagle3: transformer_layer_config.eagle_config={'use_aux_hidden_state': False}": "reads the last state, and no fc",
    # tensors that are not initialised, or norms whose weights stay 1
    "eagle3: norm_before_fc=True": "no input_norm",
    "eagle3: fc_norm=True": "no fc_norm",
    "eagle3 fc_norm: norm_before_fc=True": "no input_norm",
    "eagle3: embed_requires_grad=True": "its own embedding is missing",
    "eagle3: transformer_layer_config.model_type='qwen3'": "no norms of queries and keys",
    "eagle3: transformer_layer_config.num_hidden_layers=2": "no second layer",
    "eagle3: transformer_layer_config.attention_bias=True": "no biases",
    "eagle3: transformer_layer_config.attention_bias='x'": "is true: no biases",
    "eagle3: transformer_layer_config.attention_bias=1": "no biases",
    "eagle3: transformer_layer_config.mlp_bias=True": "no biases",
    "eagle3: no fc.weight": "missing",
    "eagle3: no norm.weight": "missing",
    "eagle3: no lm_head.weight": "missing",
    "eagle3: no d2t": "offsets of zero",
    # tensors that are dropped or cut
    "eagle3 norm_before_fc: norm_before_fc=False": "input_norm dropped",
    "eagle3: input_norm.weight": "input_norm dropped",
    "eagle3: fc.bias": "bias dropped",
    "eagle3: transformer_layer_config.intermediate_size=512": "the MLP is cut",
    "eagle3: transformer_layer_config.num_key_value_heads=1": "keys and values are cut",
    "eagle3: transformer_layer_config.head_dim=48": "the heads are cut",
}
cases.stricter = {
    "eagle3: transformer_layer_config.head_dim=0": "vLLM takes 0 for null; transformers' layers of this size are empty",
    "eagle3 sliding: transformer_layer_config.sliding_window=None": "vLLM then attends to the whole text",
    "eagle3 qwen3 sliding: no transformer_layer_config.sliding_window": "vLLM then takes Qwen3's default window",
}
