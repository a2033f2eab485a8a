"""vLLM 0.32's connector for hidden states, without its stream and pinned memory, which vLLM's CPU build does not have.

vLLM's process imports this file by its name; nothing here does. It uses private names of that version.
"""
# pyright: reportMissingImports=false
# Installed where vLLM runs, not here.

from functools import partial

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import (
    ExampleHiddenStatesConnector,
    PendingSave,
    extract_from_kv_cache,
)


class Copied:
    """Stands for a CUDA event: on the CPU a copy is complete when it returns."""

    def query(self) -> bool:
        """Whether the copy is complete."""
        return True

    def synchronize(self) -> None:
        """Wait for the copy."""


class CpuHiddenStatesConnector(ExampleHiddenStatesConnector):
    """Writes the states of each request to a file, as its base does on an accelerator."""

    def _submit_async_write(self, pending: PendingSave) -> None:
        block_N, within_S = torch.tensor(pending.block_ids), torch.arange(self._block_size)
        slot_T = (block_N[:, None] * self._block_size + within_S).flatten()
        states_TLH = extract_from_kv_cache(self._kv_cache, slot_T, len(pending.token_ids))
        tensors = {"hidden_states": states_TLH.contiguous(), "token_ids": pending.token_ids.clone()}
        lock, copied = self._lock_fds.pop(pending.req_id, None), Copied()
        future = self._executor.submit(self._write_tensors, tensors, copied, pending.filename, lock)
        self._req_copy_events[pending.req_id], self._req_futures[pending.req_id] = copied, future
        future.add_done_callback(partial(self._on_write_done, pending.req_id))
