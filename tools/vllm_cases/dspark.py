"""Valid and broken DSpark drafts. No model runner of the CPU build has it, so vLLM is asked through `vllm_blocks.py`."""

from . import LAYER, PROPOSALS, Cases

IDS = "aux_hidden_state_layer_ids"
THREE = f"algorithm.{IDS}=[1,3,5]"

cases = Cases(
    {
        "dspark": ["algorithm=dspark", THREE, "algorithm.markov_rank=32"],
        "dspark reduced": ["algorithm=dspark", THREE, "algorithm.markov_rank=32", "algorithm.draft_vocab_size=1024"],
        "dspark fill in": [
            *("algorithm=dspark", THREE, "algorithm.markov_rank=32", "algorithm.confidence_head_with_markov=false"),
            *("algorithm.sample_from_anchor=false", "algorithm.block_size=6"),
        ],
        "dspark windows": [
            *("algorithm=dspark", "algorithm.num_hidden_layers=2", "algorithm.markov_rank=32"),
            *("algorithm.sliding_window=32", "algorithm.enable_confidence_head=false"),
        ],
    },
    runner=False,
)

# Keys that it shares with DFlash.
cases.drop("dspark", IDS, "mask_token_id", "block_size", "draft_vocab_size", "sliding_window_non_causal")
cases.put("dspark", "mask_token_id", None, 4096)
cases.put("dspark", IDS, [], [5, 3, 1], [1, 3], [1, 3, 7])
cases.put("dspark", "draft_vocab_size", None, 1024)
cases.put("dspark reduced", "draft_vocab_size", 512)
cases.put("dspark", "target_hidden_size", 128)
cases.put("dspark windows", "sliding_window_non_causal", True)
cases.put("dspark", f"{PROPOSALS}.0.speculative_tokens", 3, 0)

# Keys of its own.
cases.drop("dspark", "sample_from_anchor", "markov_rank", "markov_head_type")
cases.drop("dspark", "enable_confidence_head", "confidence_head_with_markov")
cases.put("dspark", "markov_rank", 0, 16, "32")
cases.put("dspark", "markov_head_type", "gated")
cases.put("dspark", "enable_confidence_head", False)
cases.put("dspark", "confidence_head_with_markov", False)
cases.put("dspark fill in", "confidence_head_with_markov", True)

# Its decoder layers.
cases.drop("dspark", *(f"{LAYER}.{key}" for key in ("model_type", "num_key_value_heads", "hidden_act")))
cases.put("dspark", f"{LAYER}.attention_bias", True)
cases.put("dspark", f"{LAYER}.hidden_act", "gelu")
cases.put("dspark", f"{LAYER}.vocab_size", 4000)
cases.both("dspark windows", "mixed attention", {f"{LAYER}.layer_types": ["full_attention", "sliding_attention"]})

# Its tensors.
cases.tensors("dspark", "no fc.weight", {"fc.weight": None})
cases.tensors("dspark", "no q_norm", {"layers.0.self_attn.q_norm.weight": None})
cases.tensors("dspark", "no W1", {"markov_head.markov_w1.weight": None})
cases.tensors("dspark", "no W2", {"markov_head.markov_w2.weight": None})
cases.tensors("dspark", "no confidence", {"confidence_head.proj.weight": None, "confidence_head.proj.bias": None})
cases.tensors("dspark", "no bias of the confidence", {"confidence_head.proj.bias": None})
cases.tensors("dspark", "a gated Markov head", {"markov_head.gate_proj.weight": ["F32", [32, 288]]})
cases.tensors("dspark", "an fc of the wrong shape", {"fc.weight": ["F32", [256, 512]]})
cases.tensors("dspark", "fc.bias", {"fc.bias": ["F32", [256]]})
cases.tensors("dspark", "a tensor that is none", {"extra.weight": ["F32", [4]]})
cases.tensors("dspark", "d2t", {"d2t": ["I64", [4096]]})
cases.tensors("dspark", "lm_head.weight", {"lm_head.weight": ["F32", [4096, 256]]})
cases.tensors("dspark reduced", "no lm_head.weight", {"lm_head.weight": None})
cases.tensors("dspark reduced", "no d2t", {"d2t": None})
cases.tensors("dspark reduced", "no t2d", {"t2d": None})
cases.tensors("dspark reduced", "a W2 of all tokens", {"markov_head.markov_w2.weight": ["F32", [4096, 32]]})

cases.silent = {
    # keys that vLLM reads otherwise
    "dspark: no sample_from_anchor": "vLLM takes false, the format true",
    "dspark: no enable_confidence_head": "vLLM takes false, the format true",
    "dspark: markov_head_type='gated'": "taken for vanilla",
    "dspark: aux_hidden_state_layer_ids=[5, 3, 1]": "sorted before the states are joined",
    # tensors that are not initialised, or norms whose weights stay 1
    "dspark: transformer_layer_config.attention_bias=True": "no biases",
    "dspark: no fc.weight": "missing",
    "dspark: no q_norm": "missing",
    "dspark: no W1": "missing",
    "dspark: no W2": "missing",
    "dspark: no bias of the confidence": "missing",
    # parts of the draft that are left out
    "dspark: no confidence": "no confidence head",
    "dspark: enable_confidence_head=False": "its tensors are dropped",
    "dspark: fc.bias": "bias dropped",
}
cases.stricter = {
    "dspark: lm_head.weight": "vLLM takes it for the draft's own head; here the whole vocabulary's head is the verifier's",
}
