"""Valid and broken P-EAGLE drafts: what is not EAGLE-3's, whose cases the same code judges."""

from . import IDS, LAYER, PROPOSALS, Cases

THREE = f"algorithm.{IDS}=[1,3,5]"
cases = Cases(
    {
        "peagle": ["algorithm=peagle", THREE, "algorithm.draft_vocab_size=1024", "proposal.speculative_tokens=3"],
        "peagle whole vocabulary": ["algorithm=peagle", "algorithm.embed_requires_grad=false"],
        "peagle qwen3": ["algorithm=peagle", THREE, "algorithm.draft_arch=qwen3", "algorithm.num_hidden_layers=2"],
        "peagle norm_before_fc": ["algorithm=peagle", THREE, "algorithm.norm_before_fc=true"],
        "peagle fc_norm": ["algorithm=peagle", THREE, "algorithm.fc_norm=true"],
    }
)

# Its mask token and mask state.
cases.drop("peagle", "mask_token_id")
cases.put("peagle", "mask_token_id", None, 0, 4095, 4096, -1, "7", 2.5, True)
cases.tensors("peagle", "no mask_hidden", {"mask_hidden": None})
cases.tensors("peagle", "a flat mask_hidden", {"mask_hidden": ["F32", [768]]})
cases.tensors("peagle", "a short mask_hidden", {"mask_hidden": ["F32", [1, 1, 256]]})
cases.tensors("peagle", "half precision", {"mask_hidden": ["F16", [1, 1, 768]]})

# What it reads as EAGLE-3 does, and what it does not read.
cases.drop("peagle", "norm_before_residual", "norm_before_fc", "fc_norm", "norm_output", "embed_requires_grad", IDS)
cases.put("peagle", "norm_before_residual", True)
cases.put("peagle", "norm_output", True)
cases.put("peagle", "fc_norm", True)
cases.put("peagle", "norm_before_fc", True)
cases.put("peagle norm_before_fc", "norm_before_fc", False)
cases.put("peagle", "draft_vocab_size", 512, 4096, None)
cases.put("peagle", IDS, [1, 3], [5, 3, 1], [1, 3, 7])
cases.put("peagle", "target_hidden_size", 128)
cases.put("peagle", f"{PROPOSALS}.0.speculative_tokens", 0, 1, 12)
cases.put("peagle", f"{LAYER}.model_type", "gemma", "qwen3")
cases.put("peagle", f"{LAYER}.num_hidden_layers", 2)
cases.drop("peagle", f"{LAYER}.model_type", f"{LAYER}.rms_norm_eps")
cases.both("peagle", "sliding", {f"{LAYER}.layer_types": ["sliding_attention"], f"{LAYER}.sliding_window": 32})
cases.tensors("peagle", "no embed_tokens.weight", {"embed_tokens.weight": None})
cases.tensors("peagle", "no fc.weight", {"fc.weight": None})
cases.tensors("peagle", "no d2t", {"d2t": None})
cases.tensors("peagle", "a tensor that is none", {"extra.weight": ["F32", [4]]})
cases.tensors("peagle whole vocabulary", "no lm_head.weight", {"lm_head.weight": None})

cases.silent = {
    # keys that vLLM reads otherwise
    "peagle: eagle_aux_hidden_state_layer_ids=[5, 3, 1]": "sorted before the states are joined",
    # tensors that are not initialised
    "peagle: norm_before_fc=True": "no input_norm",
    "peagle: transformer_layer_config.model_type='qwen3'": "no norms of queries and keys",
    "peagle: transformer_layer_config.num_hidden_layers=2": "no second layer",
    "peagle: no embed_tokens.weight": "the verifier's embedding instead of the trained one",
    "peagle: no fc.weight": "missing",
    "peagle: no d2t": "offsets of zero",
    # tensors that are dropped
    "peagle norm_before_fc: norm_before_fc=False": "input_norm dropped",
}
cases.stricter = {
    "peagle: fc_norm=True": "loads without the tensors that the key asks for; with them, it is refused",
    "peagle: mask_token_id=True": "vLLM takes it for 1",
    "peagle: a flat mask_hidden": "vLLM flattens the tensor; the format's has three dimensions",
}
