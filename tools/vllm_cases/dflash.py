"""Valid and broken DFlash drafts."""

from . import LAYER, PROPOSALS, Cases

IDS = "aux_hidden_state_layer_ids"
THREE = f"algorithm.{IDS}=[1,3,5]"

cases = Cases(
    {
        "dflash": ["algorithm=dflash", THREE],
        "dflash reduced": ["algorithm=dflash", THREE, "algorithm.draft_vocab_size=1024"],
        "dflash two layers": ["algorithm=dflash", "algorithm.num_hidden_layers=2", "algorithm.block_size=8"],
        "dflash windows": [
            "algorithm=dflash",
            "algorithm.sliding_window=32",
            "algorithm.sliding_window_non_causal=false",
        ],
    }
)

# Keys of its own.
cases.drop("dflash", IDS, "mask_token_id", "block_size", "draft_vocab_size", "sliding_window_non_causal")
cases.put("dflash", "mask_token_id", None, 4096)
cases.put("dflash", IDS, [], [5, 3, 1], [1, 3], [1, 3, 7])
cases.put("dflash", "draft_vocab_size", None, 1024)
cases.put("dflash reduced", "draft_vocab_size", 512)
cases.put("dflash", "target_hidden_size", 128)
cases.put("dflash", "sliding_window_non_causal", False)
cases.put("dflash", "sample_from_anchor", True)
cases.put("dflash", f"{PROPOSALS}.0.speculative_tokens", 3, 9)

# Its decoder layers.
cases.drop("dflash", *(f"{LAYER}.{key}" for key in ("model_type", "num_key_value_heads", "hidden_act")))
cases.put("dflash", f"{LAYER}.attention_bias", True)
cases.put("dflash", f"{LAYER}.hidden_act", "gelu")
cases.put("dflash", f"{LAYER}.vocab_size", 4000)
cases.both(
    "dflash two layers",
    "mixed attention",
    {f"{LAYER}.layer_types": ["full_attention", "sliding_attention"], f"{LAYER}.sliding_window": 32},
)

# Its tensors.
cases.tensors("dflash", "no fc.weight", {"fc.weight": None})
cases.tensors("dflash", "no q_norm", {"layers.0.self_attn.q_norm.weight": None})
cases.tensors("dflash", "an fc of the wrong shape", {"fc.weight": ["F32", [256, 512]]})
cases.tensors("dflash", "fc.bias", {"fc.bias": ["F32", [256]]})
cases.tensors("dflash", "a tensor that is none", {"extra.weight": ["F32", [4]]})
cases.tensors("dflash", "d2t", {"d2t": ["I64", [4096]]})
cases.tensors("dflash", "lm_head.weight", {"lm_head.weight": ["F32", [4096, 256]]})
cases.tensors("dflash reduced", "no lm_head.weight", {"lm_head.weight": None})
cases.tensors("dflash reduced", "no d2t", {"d2t": None})
cases.tensors("dflash reduced", "no t2d", {"t2d": None})

cases.silent = {
    # keys that vLLM reads otherwise
    "dflash: no sliding_window_non_causal": "vLLM takes true, the format false",
    "dflash: aux_hidden_state_layer_ids=[5, 3, 1]": "sorted before the states are joined",
    "dflash: sample_from_anchor=True": "the V1 model runner predicts at mask tokens alone",
    "dflash: transformer_layer_config.vocab_size=4000": "not the verifier's vocabulary",
    # tensors that are not initialised, or norms whose weights stay 1
    "dflash: draft_vocab_size=1024": "no head and no d2t",
    "dflash: transformer_layer_config.attention_bias=True": "no biases",
    "dflash: no fc.weight": "missing",
    "dflash: no q_norm": "missing",
    "dflash reduced: no lm_head.weight": "missing",
    "dflash reduced: no d2t": "offsets of zero",
    # tensors that are dropped
    "dflash: fc.bias": "bias dropped",
}
cases.stricter = {
    "dflash: lm_head.weight": "vLLM takes it for the draft's own head; here the whole vocabulary's head is the verifier's",
}
