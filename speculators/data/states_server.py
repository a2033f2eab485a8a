"""The arguments of a vLLM server that delivers hidden states."""

import json
from collections.abc import Sequence
from pathlib import Path

from speculators.data.vllm_server import model_arguments
from speculators.verifier.settings import VerifierSettings

# vLLM's connector, and the one in speculators/assets for its CPU build, which does not run vLLM's.
CONNECTOR, CPU_CONNECTOR, CPU_MODULE = "ExampleHiddenStatesConnector", "CpuHiddenStatesConnector", "vllm_cpu_connector"


def delivered(layer_ids: Sequence[int], num_layers: int) -> list[int]:
    """The layers that a server delivers for a draft, ascending: those that the draft reads, and the last one's output."""
    return sorted({*layer_ids, num_layers})


def name_of(layer_ids: Sequence[int]) -> str:
    """The name under which a server of some layers serves the verifier: the layers cannot be told from the states."""
    return f"layers-{'-'.join(map(str, layer_ids))}"


def arguments(
    verifier: VerifierSettings, dtype: str, layer_ids: Sequence[int], max_length: int, folder: Path | str, on_cpu: bool
) -> list[str]:
    """Arguments of vLLM's OpenAI-compatible server with which it delivers hidden states.

    Args:
        verifier: which model.
        dtype: in which it runs.
        layer_ids: ascending, without repeats; the number of layers names the last one's output.
        max_length: tokens of the longest document.
        folder: to which it writes.
        on_cpu: whether it is vLLM's CPU build.
    """
    speculative = {
        "method": "extract_hidden_states",
        "num_speculative_tokens": 1,
        "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": list(layer_ids)}},
    }
    transfer = {
        "kv_connector": CPU_CONNECTOR if on_cpu else CONNECTOR,
        **({"kv_connector_module_path": CPU_MODULE} if on_cpu else {}),
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"shared_storage_path": str(folder)},
    }
    return [
        # The server generates one token after each document.
        *model_arguments(verifier, name_of(layer_ids), dtype, max_length + 1),
        *("--speculative-config", json.dumps(speculative)),
        *("--kv-transfer-config", json.dumps(transfer)),
    ]
