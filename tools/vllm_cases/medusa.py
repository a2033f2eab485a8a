"""Valid and broken Medusa drafts."""

from . import PROPOSALS, Cases

MEDUSA = ("algorithm=medusa", "algorithm.num_heads=3", "algorithm.num_hidden_layers=1")
cases = Cases(
    {
        "medusa": [*MEDUSA, "proposal.speculative_tokens=3"],
        "medusa shared": [
            *MEDUSA,
            "proposal.speculative_tokens=2",
            *("algorithm.original_lm_head=true", "algorithm.truncated_vocab_size=1024"),
            "algorithm.medusa_fc_bias=true",
        ],
    }
)

cases.put("medusa", "num_heads", 2, 5)
cases.put("medusa", "hidden_size", 128)
cases.put("medusa", "vocab_size", 4000)
cases.put("medusa", "num_hidden_layers", 2, 0)
cases.put("medusa", "medusa_fc_bias", True)
cases.put("medusa", "original_lm_head", True)
cases.put("medusa", "truncated_vocab_size", 1024)
cases.put("medusa", f"{PROPOSALS}.0.speculative_tokens", 2, 4)
cases.drop("medusa", "hidden_size", "vocab_size", "num_heads", "vllm/architectures", "vllm/model_type")
cases.put("medusa", "vllm/num_attention_heads", 4)
cases.put("medusa", "vllm/architectures", ["NoSuchModel"])
cases.tensors("medusa", "no lm_heads.2.weight", {"lm_heads.2.weight": None})
cases.tensors("medusa", "no blocks.2.layers.0.weight", {"blocks.2.layers.0.weight": None})
cases.tensors("medusa", "a bias", {"blocks.0.layers.0.bias": ["F32", [256]]})
cases.tensors("medusa", "lm_head.weight", {"lm_head.weight": ["F32", [4096, 256]]})
cases.tensors("medusa shared", "no token_map", {"token_map": None})
cases.tensors("medusa shared", "no bias", {f"blocks.{i}.layers.0.bias": None for i in range(3)})
cases.put("medusa", f"{PROPOSALS}.0.speculative_tokens", "3")
cases.put("medusa", "medusa_fc_bias", "x")
cases.put("medusa", "num_hidden_layers", "1")

cases.silent = {
    # tensors that are not initialised
    "medusa: original_lm_head=True": "no shared head",
    "medusa: no lm_heads.2.weight": "missing",
    # tensors that are dropped or cut
    "medusa: a bias": "bias dropped",
    "medusa: lm_head.weight": "head dropped",
    "medusa: num_hidden_layers=0": "blocks dropped",
}
