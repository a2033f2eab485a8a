"""Valid and broken independent drafts."""

from . import LAYER, PROPOSALS, Cases

cases = Cases(
    {
        "independent": ["algorithm=independent", "proposal.speculative_tokens=2"],
        "independent head": ["algorithm=independent", "algorithm.tie_word_embeddings=false"],
        "independent qwen2": ["algorithm=independent", "algorithm.draft_arch=qwen2", "algorithm.num_hidden_layers=1"],
        "independent qwen3": ["algorithm=independent", "algorithm.draft_arch=qwen3", "algorithm.num_hidden_layers=1"],
        "independent narrow": ["algorithm=independent", "algorithm.hidden_size=128", "algorithm.num_hidden_layers=1"],
        "independent parallel": [
            "algorithm=independent",
            "algorithm.parallel_drafting=true",
            "algorithm.num_hidden_layers=1",
        ],
        "independent parallel qwen3": [
            "algorithm=independent",
            "algorithm.parallel_drafting=true",
            "algorithm.draft_arch=qwen3",
        ],
    }
)

# The language model's sizes and kinds.
cases.put("independent", f"{LAYER}.hidden_size", 128)
cases.put("independent", f"{LAYER}.intermediate_size", 512, 1024)
cases.put("independent", f"{LAYER}.num_hidden_layers", 1, 3)
cases.put("independent", f"{LAYER}.num_attention_heads", 3, 8)
cases.put("independent", f"{LAYER}.num_key_value_heads", 1, 4)
cases.put("independent", f"{LAYER}.head_dim", 48, 128)
cases.put("independent", f"{LAYER}.hidden_act", "gelu")
cases.put("independent", f"{LAYER}.vocab_size", 4000, 5000)
cases.put("independent", f"{LAYER}.rms_norm_eps", "small")
cases.put("independent", f"{LAYER}.max_position_embeddings", 64)
cases.put("independent", f"{LAYER}.tie_word_embeddings", False)
cases.put("independent head", f"{LAYER}.tie_word_embeddings", True)
cases.put("independent qwen3", f"{LAYER}.model_type", "no_such_type")

# How it is used.
cases.put("independent", f"{PROPOSALS}.0.speculative_tokens", 0, 5)

# All tokens in one pass.
cases.put("independent parallel", "pard_token", None, 0, 4096, -1, "7", 2.5, True)
cases.drop("independent parallel", "pard_token", "parallel_drafting")
cases.put("independent parallel", "parallel_drafting", False)
cases.put("independent parallel", f"{PROPOSALS}.0.speculative_tokens", 0, 1, 12)
cases.drop("independent parallel", "vllm/pard_token")
cases.put("independent parallel", "vllm/pard_token", 7, 4096)
cases.put("independent", "parallel_drafting", True)

# The language model's own config.
cases.drop("independent", "vllm/architectures", "vllm/model_type", "vllm/vocab_size", "vllm/num_key_value_heads")
cases.put("independent", "vllm/rms_norm_eps", 1e-3)

# Its tensors.
cases.tensors("independent", "no model.norm.weight", {"model.norm.weight": None})
cases.tensors("independent", "no model.embed_tokens.weight", {"model.embed_tokens.weight": None})
cases.tensors("independent", "no query", {"model.layers.1.self_attn.q_proj.weight": None})
cases.tensors("independent", "a tensor that is none", {"model.extra.weight": ["F32", [4]]})
cases.tensors("independent", "a bias", {"model.layers.0.self_attn.q_proj.bias": ["F32", [256]]})
cases.tensors("independent", "a norm of the wrong shape", {"model.norm.weight": ["F32", [128]]})
cases.tensors("independent", "names without model.", {"model.norm.weight": None, "norm.weight": ["F32", [256]]})
cases.tensors("independent", "half precision", {"model.norm.weight": ["F16", [256]]})
cases.tensors("independent head", "no lm_head.weight", {"lm_head.weight": None})
cases.tensors("independent qwen3", "no norm of queries", {"model.layers.0.self_attn.q_norm.weight": None})
cases.tensors("independent qwen2", "no bias of keys", {"model.layers.0.self_attn.k_proj.bias": None})

cases.silent = {
    # keys that it reads otherwise
    "independent: vllm/rms_norm_eps=0.001": "the published config, which was trained, says otherwise",
    "independent parallel: vllm/pard_token=7": "another mask token than in training",
    # tensors that are not initialised
    f"independent: {LAYER}.tie_word_embeddings=False": "no head",
    "independent head: no lm_head.weight": "missing",
    "independent: no model.embed_tokens.weight": "missing",
    "independent: no query": "missing",
    "independent qwen2: no bias of keys": "missing",
    # tensors that are dropped or cut
    "independent: a bias": "bias dropped",
    f"independent: {LAYER}.intermediate_size=512": "the MLP is cut",
    f"independent: {LAYER}.num_key_value_heads=1": "keys and values are cut",
    f"independent: {LAYER}.head_dim=48": "the heads are cut",
}
cases.stricter = {"independent parallel: pard_token=True": "vLLM takes it for 1"}
