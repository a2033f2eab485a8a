"""One greedy generation inside vLLM's own environment: a job file in, an answer file out.

Needs nothing but vLLM. `serve_vllm.py` starts it once without and once with the draft.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def generate(job: dict[str, Any]) -> dict[str, Any]:
    """Serve a model and continue every prompt greedily.

    Args:
        job: `model` (folder or hub id), `speculative` (vLLM's speculative_config, or None), `dtype`, `prompts` (token
            ids), `max_new_tokens`, `max_model_len`.

    Returns:
        `tokens` (token ids of each answer), `seconds`, and vLLM's speculative-decoding counters in `metrics`.
    """
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
    sampling = SamplingParams(temperature=0.0, max_tokens=job["max_new_tokens"], detokenize=False)
    started = time.perf_counter()
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], sampling, use_tqdm=False)
    seconds = time.perf_counter() - started
    metrics: dict[str, Any] = {}
    for metric in llm.get_metrics():
        if "spec_decode" in metric.name:
            # A counter has a value, the counter per position has values.
            metrics[metric.name] = metric.values if metric.name.endswith("per_pos") else metric.value
    return {"tokens": [list(o.outputs[0].token_ids) for o in outputs], "seconds": seconds, "metrics": metrics}


if __name__ == "__main__":
    job_file, answer_file = sys.argv[1:3]
    Path(answer_file).write_text(json.dumps(generate(json.loads(Path(job_file).read_text()))))
