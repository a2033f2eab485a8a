"""What vLLM 0.32.0 does with MLP speculators. Torch-free."""

from speculators.export.engines.vllm_0_32_0 import VllmDraft


@VllmDraft.register("mlp")
class MLP(VllmDraft):
    """It has the config and the class, model_executor/models/mlp_speculator.py, and starts neither.

    model_executor/models/registry.py has its line commented out, and v1/worker/gpu_model_runner.py:GPUModelRunner.__init__
    knows no such method.
    """

    refusal = "vllm 0.32.0 reads the config of MLP speculators, and has no runner for them; use export=none"
