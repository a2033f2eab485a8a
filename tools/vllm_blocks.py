"""Runs vLLM's DFlash and DSpark drafts without its model runner. Needs nothing but vLLM 0.32.0, its CPU build.

That build has no runner for DSpark, and computes wrong keys for the context of DFlash drafts of several layers. All else that a
draft needs it has: the parser of the config, the loader, the speculator (`v1/worker/gpu/spec_decode`) with the draft's layers,
its heads and its sequential sampling, and attention over a paged cache, also in both directions and with windows. These
are called here one after another. Three things are not vLLM's:

- Its check for Triton is left out: VllmConfig._validate_v2_model_runner.
- The context's keys of each layer are normalised with that layer's weights, as vLLM's kernel for GPUs does:
  DFlashQwen3Model._normalize_context_k. The CPU's kernel takes the first layer's for all.
- Token ids, positions and places in the cache, which a Triton kernel writes (_prepare_dflash_inputs_kernel), are written by
  `BlockDrafts._run`.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_USE_V2_MODEL_RUNNER": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from vllm import _custom_ops as ops
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models.qwen3_dflash import DFlashQwen3Model
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.worker.cpu_model_runner import _set_torch_accelerator_to_noop
from vllm.v1.worker.gpu.spec_decode import init_speculator
from vllm.v1.worker.gpu.spec_decode.eagle.eagle3_utils import set_eagle3_aux_hidden_state_layers

CPU = torch.device("cpu")


def _normalised(self: DFlashQwen3Model, key_LNKD: Tensor) -> Tensor:
    out = torch.empty_like(key_LNKD)
    for layer, weight_D in enumerate(self._k_norm_weights):
        ops.rms_norm(out[layer], key_LNKD[layer], weight_D, self._rms_norm_eps)
    return out


class BlockDrafts:
    """A draft that vLLM loaded, beside its verifier.

    Args:
        model: as of `vllm serve`.
        speculative: as of `--speculative-config`; None where the model's config.json has it.
    """

    def __init__(self, model: str, speculative: Mapping[str, Any] | None) -> None:
        VllmConfig._validate_v2_model_runner = lambda self: None  # type: ignore[method-assign]
        DFlashQwen3Model._normalize_context_k = _normalised  # type: ignore[method-assign]
        arguments = EngineArgs(
            model=model,
            speculative_config=dict(speculative) if speculative else None,
            dtype="float32",
            max_model_len=64,
            max_num_seqs=8,
            max_num_batched_tokens=128,
            kv_cache_memory_bytes=2**20,
            enforce_eager=True,
        )
        _set_torch_accelerator_to_noop()
        self.config = arguments.create_engine_config()
        with set_current_vllm_config(self.config), tempfile.TemporaryDirectory() as folder:
            init_distributed_environment(1, 0, f"file://{folder}/init", 0, "gloo")
            initialize_model_parallel()
            self.verifier = get_model(vllm_config=self.config)
            self.speculator = init_speculator(self.config, CPU, None)  # type: ignore[arg-type]
            self.speculator.load_model(self.verifier)
        self.draft = self.speculator.model

    @property
    def states_width(self) -> int:
        """Width of the verifier's states that vLLM collects: an id that is no layer's gives none."""
        set_eagle3_aux_hidden_state_layers(self.verifier, self.config.speculative_config)
        model = self.config.model_config
        layers = model.get_total_num_hidden_layers()
        ids = [i for i in self.verifier.model.aux_hidden_state_layers if i <= layers]
        return len(ids) * model.get_hidden_size()

    @torch.inference_mode()
    def compute(self, aux: list[Tensor], token_NS: Tensor) -> dict[str, Tensor]:
        """A round of N requests, with S speculative tokens.

        Args:
            aux: for each request, [tokens, layers * H] the verifier's states at all positions so far.
            token_NS: the token after each request's last position, and those after it, which DSpark is given in place of
                those that it samples.

        Returns:
            `hidden` [N, S, H] after the last norm, where tokens are predicted; `logits` [N, S, V] of the head, -inf where the
            draft has no such token; of DSpark also `corrected` [N, S, V] with the Markov term, and `confidence` [N, S].
        """
        output_QH = self._run(aux, token_NS[:, 0])
        hidden_NSH = output_QH[self.speculator.sample_indices[: token_NS.numel()]].unflatten(0, token_NS.shape)
        if self.config.speculative_config.method == "dflash":
            return {
                "hidden": hidden_NSH,
                "logits": self.draft.compute_logits(hidden_NSH.flatten(0, 1)).unflatten(0, token_NS.shape),
            }
        logits = self.draft.compute_draft_logits(hidden_NSH.flatten(0, 1)).unflatten(0, token_NS.shape)
        return {"hidden": hidden_NSH, "logits": self._widened(logits), **self._sampled(output_QH, token_NS)}

    def _run(self, aux: list[Tensor], token_N: Tensor) -> Tensor:
        """[Q, H] the output of the layers for all inputs of all requests, after the last norm."""
        speculator, inputs = self.speculator, self.speculator.num_query_per_req
        length_N = torch.tensor([len(states) for states in aux])
        before_C = torch.cat([torch.arange(len(states)) for states in aux])
        position_NM = length_N.unsqueeze(1) + torch.arange(inputs)
        block_N = torch.arange(len(aux)) + 1  # of the cache, one for each request; vLLM keeps the first one empty
        metadata, places_Q, places_C = {}, {}, []
        causal = self.draft.get_draft_attn_causal()
        for name, back_alone in zip(self.draft.get_draft_kv_cache_layer_names(), causal, strict=True):
            layer = self.config.compilation_config.static_forward_context[name]
            with set_current_vllm_config(self.config):
                cache = layer.get_kv_cache_spec(self.config)
                builder = layer.get_attn_backend().get_builder_cls()(cache, [name], self.config, CPU)
            layer.kv_cache = torch.zeros(len(aux) + 1, layer.num_kv_heads, cache.block_size, 2 * layer.head_size)
            places_C.append((block_N * cache.block_size).repeat_interleave(length_N) + before_C)
            places_Q[name] = (block_N.unsqueeze(1) * cache.block_size + position_NM).flatten()
            start_N = (torch.arange(len(aux) + 1) * inputs).int()
            common = CommonAttentionMetadata(
                query_start_loc=start_N,
                query_start_loc_cpu=start_N,
                seq_lens=(length_N + inputs).int(),
                num_reqs=len(aux),
                num_actual_tokens=position_NM.numel(),
                max_query_len=inputs,
                max_seq_len=int(position_NM.max()) + 1,
                block_table_tensor=block_N.int().unsqueeze(1),
                slot_mapping=places_Q[name],
                causal=back_alone,
            )
            metadata[name] = builder.build(0, common)
        states_CH = self.draft.combine_hidden_states(torch.cat(aux))
        self.draft.precompute_and_store_context_kv(states_CH, before_C, places_C)
        token_NM = torch.full_like(position_NM, speculator.parallel_drafting_token_id)
        token_NM[:, 0] = token_N
        place_NM = torch.arange(token_NM.numel()).view_as(token_NM)
        sampled = place_NM[:, 0 if speculator.sample_from_anchor else 1 :].flatten()
        speculator.sample_indices[: len(sampled)] = sampled
        speculator.input_buffers.input_ids[: token_NM.numel()] = token_NM.flatten()
        speculator.input_buffers.positions[: token_NM.numel()] = position_NM.flatten()
        return speculator._run_model(token_NM.numel(), metadata, places_Q, None)

    def _sampled(self, output_QH: Tensor, token_NS: Tensor) -> dict[str, Tensor]:
        speculator, seen = self.speculator, []

        def sample(logits_ND: Tensor, _: Tensor, __: Tensor, step: int) -> Tensor:
            seen.append(logits_ND.clone())
            return token_NS[:, min(step + 1, token_NS.shape[1] - 1)]

        speculator._sample_logits = sample
        speculator.use_confidence_head = self.draft.model.confidence_head is not None
        speculator._sample_sequential(len(token_NS), output_QH)
        made = {"corrected": self._widened(torch.stack(seen, dim=1))}
        if speculator.use_confidence_head:
            made["confidence"] = speculator.draft_token_confidence_probs[: len(token_NS)].clone()
        return made

    def _widened(self, logits_NSD: Tensor) -> Tensor:
        """At the places that `map_draft_to_target` gives a draft's tokens, by which vLLM names those that it samples."""
        vocab = self.config.model_config.get_vocab_size()
        wide_NSV = logits_NSD.new_full((*logits_NSD.shape[:2], vocab), float("-inf"))
        wide_NSV[..., self.draft.map_draft_to_target(torch.arange(logits_NSD.shape[-1]))] = logits_NSD
        return wide_NSV


def add_outputs(verifier: str, folder: Path) -> None:
    """Add what vLLM computes with a draft to the inputs in the file beside it, DRAFT.safetensors.

    Args:
        verifier: folder.
        folder: the draft's. The inputs are the verifier's states of documents side by side, and `anchor_positions`, where
            blocks begin. The outputs are [S, blocks, ...].
    """
    file = folder.with_suffix(".safetensors")
    given = load_file(file)
    published = json.loads((folder / "config.json").read_text())
    slots = published["speculators_config"]["proposal_methods"][0]["speculative_tokens"]
    method = published["speculators_model_type"]
    drafts = BlockDrafts(verifier, {"method": method, "model": str(folder), "num_speculative_tokens": slots})
    states_TA, token_T, document_T = (given[k][0] for k in ("hidden_states", "input_ids", "document_ids"))
    start_N, place_T = given["anchor_positions"], torch.arange(len(token_T))
    aux = [states_TA[(document_T == document_T[start]) & (place_T < start)] for start in start_N]
    made = drafts.compute(aux, token_T[start_N.unsqueeze(1) + torch.arange(slots)])
    outputs = {name: value.transpose(0, 1).contiguous() for name, value in made.items()}
    save_file(given | outputs, file)


def main() -> None:
    """Of every draft: `vllm_blocks.py VERIFIER DRAFT...`, each in a fork of a process that has imported vLLM."""
    verifier, *folders = sys.argv[1:]
    failed = []
    for folder in folders:
        child = multiprocessing.get_context("fork").Process(target=add_outputs, args=(verifier, Path(folder)))
        child.start()
        child.join()
        if child.exitcode:
            failed.append(folder)
    if failed:
        sys.exit(f"vLLM did not compute the outputs of {', '.join(failed)}")


if __name__ == "__main__":
    main()
