"""What vLLM says of each of many folders: a job file in, an answer file out. Needs nothing but vLLM.

`vllm_verdicts.py` starts it in vLLM's own environment. vLLM is imported once; every folder gets a fork of that process,
with a whole engine in it, so that no folder sees what another left behind.
"""

import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

# The engine in the process itself, and no compilation: an exception arrives as it was raised.
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
SECONDS = 180  # after that a fork is stopped


def serve(model: str, speculative: dict[str, Any] | None) -> None:
    """Load a draft with its verifier and draft a few tokens; raises what vLLM raises."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=model,
        dtype="float32",
        speculative_config=speculative,
        max_model_len=64,
        max_num_seqs=2,
        max_num_batched_tokens=128,
        kv_cache_memory_bytes=64 * 2**20,
        enforce_eager=True,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=4, detokenize=False, ignore_eos=True)
    llm.generate([{"prompt_token_ids": [5, 6, 7, 8]}], sampling, use_tqdm=False)


def compute(model: str, speculative: dict[str, Any] | None) -> None:
    """Load a draft with its verifier and compute a round, without a model runner; raises what vLLM raises."""
    import torch
    from vllm_blocks import BlockDrafts

    drafts = BlockDrafts(model, speculative)
    tokens = drafts.config.speculative_config.num_speculative_tokens
    drafts.compute([torch.zeros(5, drafts.states_width)], torch.full((1, tokens), 6))


def describe(error: BaseException) -> dict[str, str]:
    """Class, first line and place of an exception, without a path of this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic's first line only counts; the error itself is its third.
    first = lines[2] if re.match(r"\d+ validation error", lines[0] if lines else "") else "".join(lines[:1])
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/vllm/" in f.filename]
    where = f"{frames[-1].filename.rpartition('/vllm/')[2]}:{frames[-1].name}" if frames else ""
    return {"error": type(error).__name__, "message": re.sub(r" \[type=.*", "", first)[:200], "where": where}


def fork(job: dict[str, Any], answer: Path, log: Path) -> dict[str, Any]:
    """One folder's verdict, from a process of its own."""
    child = os.fork()
    if child == 0:
        with log.open("w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        import signal

        signal.alarm(SECONDS)
        try:
            (serve if job["runner"] else compute)(job["model"], job["speculative"])
            result: dict[str, str] = {"verdict": "loads"}
        except BaseException as error:
            traceback.print_exc()
            result = {"verdict": "refuses", **describe(error)}
        answer.write_text(json.dumps(result))
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not answer.is_file():
        return {"verdict": "refuses", "error": "Killed", "message": f"wait status {status}", "where": ""}
    return json.loads(answer.read_text())


def main() -> None:
    """Judge every job, and go on where an earlier call stopped."""
    jobs_file, answers_file, scratch = map(Path, sys.argv[1:4])
    import vllm
    from vllm import LLM  # noqa: F401  every fork would import it again

    answers, jobs = (
        json.loads(answers_file.read_text()) if answers_file.is_file() else {},
        json.loads(jobs_file.read_text()),
    )
    if not all(job["runner"] for job in jobs):
        import vllm_blocks  # noqa: F401
    for job in jobs:
        if job["name"] in answers:
            continue
        name = re.sub(r"\W+", "_", job["name"])
        answers[job["name"]] = fork(job, scratch / f"{name}.json", scratch / f"{name}.log")
        print(job["name"], answers[job["name"]], flush=True)
        answers_file.write_text(json.dumps({**answers, "vllm": vllm.__version__}))


if __name__ == "__main__":
    main()
