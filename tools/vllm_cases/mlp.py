"""MLP speculators, of which vLLM serves none."""

from . import PROPOSALS, USAGE, VERIFIER, Cases

cases = Cases(
    {
        "mlp": ["algorithm=mlp", "algorithm.inner_dim=64"],
        "mlp untied": ["algorithm=mlp", "algorithm.inner_dim=64", "algorithm.tie_weights=false"],
        "mlp short": ["algorithm=mlp", "algorithm.n_predict=2", "proposal.speculative_tokens=2"],
    }
)

cases.drop("mlp", "architectures", "vocab_size", "emb_dim", "inner_dim", "n_predict", "tie_weights", "scale_input")
cases.put("mlp", "n_predict", 3, 6)
cases.put("mlp", "emb_dim", 128)
cases.put("mlp", "inner_dim", 0, 32)
cases.put("mlp", "vocab_size", 4000)
cases.put("mlp", "scale_input", False)
cases.put("mlp", "tie_weights", False)
cases.put("mlp untied", "tie_weights", True)
cases.put("mlp", "model_type", "mlp_speculator")
cases.put("mlp", "transformer_layer_config", {})
cases.put("mlp", f"{PROPOSALS}.0.speculative_tokens", 2, 9)
cases.drop("mlp", PROPOSALS, USAGE, f"{VERIFIER}.name_or_path")
cases.tensors("mlp", "no emb", {"emb.0.weight": None})
cases.tensors("mlp", "no head", {"head.0.weight": None})
cases.tensors("mlp", "a bias", {"proj.0.bias": ["F32", [64]]})
cases.tensors("mlp untied", "no second stage", {"emb.1.weight": None, "proj.1.weight": None})
