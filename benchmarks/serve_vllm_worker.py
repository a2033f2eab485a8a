"""One generation inside vLLM's own environment: a job file in, an answer file out.

Needs nothing but vLLM. `serve_vllm.py` starts it once without and once with the draft.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def repair_sampling() -> None:
    """Give each drafted token its request's temperature, which the CPU build of vLLM 0.32.0 does not.

    There, utils/cpu_triton_utils.py:_expand_kernel_impl converts the tensor that it is to fill to int64, and fills the copy:
    v1/sample/rejection_sampler.py divides the logits by memory that nothing was written to, and the texts of a sampled draft
    are not distributed as the verifier's.
    """
    import torch
    from vllm.v1.sample import rejection_sampler

    def expand(x_B: Any, ends_B: Any, num_tokens: int, replace_from: int = 0, replace_to: int = 0) -> Any:
        replaced_B = torch.where(x_B == replace_from, replace_to, x_B) if replace_from != replace_to else x_B
        counts_B = torch.diff(ends_B, prepend=ends_B.new_zeros(1))
        return replaced_B.to(x_B.dtype).repeat_interleave(counts_B, output_size=num_tokens)

    rejection_sampler.expand_batch_to_tokens = expand


def generate(job: dict[str, Any]) -> dict[str, Any]:
    """Serve a model and continue every prompt.

    Args:
        job: `model` (folder or hub id), `speculative` (vLLM's speculative_config, or None), `dtype`, `prompts` (token
            ids), `max_new_tokens`, `max_model_len`, `temperature`, `one_by_one` (prompts go one after another).

    Returns:
        `tokens` (token ids of each answer), `seconds`, vLLM's speculative-decoding counters in `metrics`, and as `counts`,
        [accepted, drafts] of each prompt, or of all of them together if they do not go one after another.
    """
    # The engine runs in this process: it starts in half the time, and a function of it can be replaced.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if job["temperature"] > 0:
        repair_sampling()
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=job["model"],
        dtype=job["dtype"],
        speculative_config=job["speculative"],
        max_model_len=job["max_model_len"],
        max_num_seqs=64,
        enforce_eager=True,
        # A prefix found in the cache would be no work for the engine, and its states none for the draft.
        enable_prefix_caching=False,
        disable_log_stats=False,
    )
    temperature, prompts = job["temperature"], [{"prompt_token_ids": ids} for ids in job["prompts"]]
    sampling = SamplingParams(temperature=temperature, max_tokens=job["max_new_tokens"], detokenize=False)

    def metrics() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for metric in llm.get_metrics():
            if "spec_decode" in metric.name:
                # A counter has a value, the counter per position has values.
                found[metric.name] = metric.values if metric.name.endswith("per_pos") else metric.value
        return found

    started, outputs, counts = time.perf_counter(), [], []
    # vLLM counts over all requests: only one after another do the counters tell prompts apart.
    for some in [[prompt] for prompt in prompts] if job["one_by_one"] else [prompts]:
        before = metrics()
        outputs += llm.generate(some, sampling, use_tqdm=False)
        after = metrics()
        names = [f"vllm:spec_decode_num_{name}" for name in ("accepted_tokens", "drafts")]
        counts.append([after.get(name, 0) - before.get(name, 0) for name in names])
    seconds = time.perf_counter() - started
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    return {"tokens": tokens, "seconds": seconds, "metrics": metrics(), "counts": counts}


if __name__ == "__main__":
    job_file, answer_file = sys.argv[1:3]
    Path(answer_file).write_text(json.dumps(generate(json.loads(Path(job_file).read_text()))))
