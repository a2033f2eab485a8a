"""Serve published drafts in vLLM and compare with our own evaluation: same text, same acceptance length.

    python benchmarks/serve_vllm.py RUN/checkpoint --vllm-python ENV/bin/python

vLLM lives in an environment of its own, which this script uses and does not make. Every draft is served with the
command of its own model card. Prompts are those of an evaluation, passed as token ids, so that both sides read the same
ones: by default the run's own evaluation, the folder that holds `checkpoint`; any other one is made by

    speculators evaluate RUN/checkpoint data=jsonl data.path=FILE output=FOLDER

With --stitched, vLLM reads the draft from a copy of the verifier in which it takes the place of the verifier's own layer
(export.stitched_verifier=true).

With --interval, prompts go one after another through the draft, so that vLLM's counters tell them apart: its acceptance length
then has a 95 % bootstrap interval over prompts, and speeds are not compared.

With --temperature, tokens are sampled from the draft on both sides; the evaluation is one of

    speculators evaluate RUN/checkpoint proposal=sampling evaluation.temperature=1.0 output=FOLDER

Exit code 1: in float32 a text differs, or an acceptance length differs by more than the tolerance; sampled, by more than
both 95 % intervals together allow.
"""

import argparse
import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from speculators.evaluate.comparison import length_of
from speculators.evaluate.interval import acceptance_interval

WORKER = Path(__file__).with_name("serve_vllm_worker.py")
# vLLM counts as we do; what is left are drafts that different float kernels rank differently.
TOLERANCE = 0.03
MARGIN = 64  # positions above the longest prompt and answer, for drafted tokens
# vLLM's answers to jobs, by job.
Ask = Callable[[list[str]], dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Comparison:
    """One draft, served and evaluated.

    Attributes:
        interval: the 95 % interval of vLLM's acceptance length; None if the prompts were served together.
    """

    name: str
    dtype: str
    result: dict[str, Any]
    same_as_plain: int
    same_as_ours: int
    acceptance_length: float
    interval: tuple[float, float] | None
    per_position: list[float]
    tokens_per_second: float
    plain_tokens_per_second: float

    @property
    def difference(self) -> float:
        """vLLM's acceptance length over ours, minus one."""
        return self.acceptance_length / self.result["acceptance_length"] - 1

    def failures(self) -> list[str]:
        """What does not agree; texts count in float32 alone, since lower precision has true ties."""
        found, prompts = [], self.result["num_prompts"]
        if self.dtype == "float32" and self.same_as_plain < prompts:
            found.append(f"{prompts - self.same_as_plain} texts differ with and without the draft")
        if self.dtype == "float32" and self.same_as_ours < prompts:
            found.append(f"{prompts - self.same_as_ours} texts differ from ours")
        if self.dtype == "float32" and abs(self.difference) > TOLERANCE:
            found.append(f"acceptance length differs by {self.difference:+.1%}")
        return [f"{self.name}: {what}" for what in found]


def serve_arguments(checkpoint: Path, verifier: str) -> tuple[str, dict[str, Any] | None]:
    """Model and speculative_config of the `vllm serve` command in a model card, with paths in full.

    Args:
        checkpoint: published folder; the card's command runs in it, and names a local verifier without its path.
        verifier: its folder or hub id.
    """
    command = re.search(r"^vllm serve .*$", (checkpoint / "README.md").read_text(), re.MULTILINE)
    if command is None:
        raise SystemExit("the model card has no `vllm serve` command: this draft was not exported for vLLM")
    model, *options = shlex.split(command.group())[2:]
    speculative = json.loads(options[options.index("--speculative-config") + 1]) if options else None
    folder = checkpoint.resolve()
    if speculative is None or "model" not in speculative:
        return str(folder / model), speculative
    return verifier, speculative | {"model": str(folder / speculative["model"])}


def ask_vllm(python: Path, job: str) -> dict[str, Any]:
    """Run one job in vLLM's environment.

    Args:
        python: its interpreter.
        job: JSON, as `serve_vllm_worker.generate` takes it.
    """
    offline = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "job.json"), Path(folder, "answer.json")
        asked.write_text(job)
        done = subprocess.run(
            [str(python), str(WORKER), str(asked), str(answered)],
            env=offline | os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"{done.stdout[-4000:]}\nvLLM could not serve {json.loads(job)['model']}")
        return json.loads(answered.read_text())


def ask_all(python: Path, at_once: int, jobs: list[str]) -> dict[str, dict[str, Any]]:
    """The answer to each job; equal ones, as those of one verifier without a draft, are run once.

    Args:
        python: interpreter of vLLM's environment.
        at_once: number of engines that run side by side.
        jobs: as `ask_vllm` takes them.
    """
    different = list(dict.fromkeys(jobs))
    with ThreadPoolExecutor(at_once) as pool:
        return dict(zip(different, pool.map(partial(ask_vllm, python), different), strict=True))


class Draft:
    """A published draft, and an evaluation to compare its serving with.

    Args:
        checkpoint: published folder.
        evaluation: folder with result.json and generations.jsonl.
        options: the command line's; `dtype`, `stitched` and `temperature` are read.
    """

    def __init__(self, checkpoint: Path, evaluation: Path, options: argparse.Namespace) -> None:
        self.result = json.loads((evaluation / "result.json").read_text())
        self.generations = [json.loads(line) for line in (evaluation / "generations.jsonl").read_text().splitlines()]
        config = json.loads((checkpoint / "config.json").read_text())
        self.name, self.dtype, published = config["speculators_model_type"], options.dtype, config["speculators_config"]
        self.verifier = published["verifier"]["name_or_path"]
        self.model, self.speculative = serve_arguments(checkpoint, self.verifier)
        if options.stitched is not None:
            self.name += ", stitched"
            self.model = str(options.stitched)
            self.speculative = {k: v for k, v in (self.speculative or {}).items() if k != "model"}
        drafted, evaluated = published["proposal_methods"][0]["speculative_tokens"], self.result["speculative_tokens"]
        if evaluated != drafted and not options.temperature:
            raise SystemExit(f"{evaluation} drafted {evaluated} tokens, {checkpoint} says {drafted}")

    def job(self, model: str, speculative: dict[str, Any] | None, temperature: float, one_by_one: bool) -> str:
        """What vLLM is asked to do with the prompts of the evaluation; JSON, as `serve_vllm_worker.generate` takes it."""
        prompts, limit = [one["prompt"] for one in self.generations], self.result["max_new_tokens"]
        job = {
            "model": model,
            "speculative": speculative,
            "dtype": self.dtype,
            "prompts": prompts,
            "max_new_tokens": limit,
            "max_model_len": max(map(len, prompts)) + limit + MARGIN,
            "temperature": temperature,
            "one_by_one": one_by_one,
        }
        return json.dumps(job)


def compare(drafts: list[Draft], ask: Ask, one_by_one: bool) -> list[Comparison]:
    """Serve each draft's verifier without and with it, on the prompts of its evaluation.

    Args:
        drafts: evaluated at temperature 0.
        ask: gives vLLM's answers to jobs.
        one_by_one: serve one prompt after another with the draft, and compute the interval.
    """
    plain = [draft.job(draft.verifier, None, 0.0, False) for draft in drafts]
    drafted = [draft.job(draft.model, draft.speculative, 0.0, one_by_one) for draft in drafts]
    answers = ask([*plain, *drafted])
    return [compared(d, answers[p], answers[s], one_by_one) for d, p, s in zip(drafts, plain, drafted, strict=True)]


def compared(draft: Draft, plain: dict[str, Any], drafted: dict[str, Any], one_by_one: bool) -> Comparison:
    """What the answers without and with a draft say, beside its evaluation."""
    counter = {name.removeprefix("vllm:spec_decode_num_"): value for name, value in drafted["metrics"].items()}
    tokens, ours = sum(map(len, drafted["tokens"])), [one["tokens"] for one in draft.generations]
    return Comparison(
        name=draft.name,
        dtype=draft.dtype,
        result=draft.result,
        same_as_plain=sum(a == b for a, b in zip(plain["tokens"], drafted["tokens"], strict=True)),
        same_as_ours=sum(a == b for a, b in zip(drafted["tokens"], ours, strict=True)),
        acceptance_length=1 + counter["accepted_tokens"] / counter["drafts"],
        interval=acceptance_interval(rounds_of(drafted["counts"])) if one_by_one else None,
        per_position=[accepted / counter["drafts"] for accepted in counter["accepted_tokens_per_pos"]],
        tokens_per_second=tokens / drafted["seconds"],
        plain_tokens_per_second=tokens / plain["seconds"],
    )


@dataclass(frozen=True)
class Sampled:
    """One draft that is sampled from, served and evaluated.

    Attributes:
        ours, theirs: of each prompt the drafted tokens that each draft had accepted; of vLLM only their sum is known.
    """

    name: str
    temperature: float
    ours: list[list[int]]
    theirs: list[list[int]]

    def cells(self) -> list[str]:
        """A row of the table."""
        lengths = []
        for rounds in (self.theirs, self.ours):
            low, high = acceptance_interval(rounds) or (math.nan, math.nan)
            lengths.append(f"{length_of(rounds):.3f} ({low:.3f} to {high:.3f})")
        drafts = (str(sum(map(len, rounds))) for rounds in (self.theirs, self.ours))
        return [self.name, f"{self.temperature:g}", str(len(self.ours)), *drafts, *lengths, f"{self.difference:+.3f}"]

    @property
    def difference(self) -> float:
        """vLLM's acceptance length minus ours."""
        return length_of(self.theirs) - length_of(self.ours)

    def failures(self) -> list[str]:
        """A difference that is beyond both intervals together: half widths of independent estimates add in squares."""
        halves = [
            (high - low) / 2 for low, high in (acceptance_interval(r) or (0, 0) for r in (self.theirs, self.ours))
        ]
        if abs(self.difference) <= math.hypot(*halves):
            return []
        return [
            f"{self.name}: acceptance length differs by {self.difference:+.3f}, more than {math.hypot(*halves):.3f}"
        ]


def compare_sampled(drafts: list[Draft], ask: Ask, temperature: float) -> list[Sampled]:
    """Serve drafts that are sampled from, on the prompts of evaluations that sampled them.

    Args:
        drafts: evaluated at this temperature.
        ask: gives vLLM's answers to jobs.
        temperature: above 0.
    """
    jobs = []
    for draft in drafts:
        tokens = draft.result["speculative_tokens"]
        sampled = {"draft_sample_method": "probabilistic", "num_speculative_tokens": tokens}
        jobs.append(draft.job(draft.model, (draft.speculative or {}) | sampled, temperature, True))
    answers = ask(jobs)
    return [
        Sampled(
            draft.name, temperature, [one["accepted"] for one in draft.generations], rounds_of(answers[job]["counts"])
        )
        for draft, job in zip(drafts, jobs, strict=True)
    ]


def rounds_of(counts: list[list[float]]) -> list[list[int]]:
    """Drafts of each prompt, whose sums are those that vLLM counted.

    How the accepted tokens are shared among the drafts of a prompt is unknown, and does not change an acceptance length.

    Args:
        counts: [accepted tokens, drafts] of each prompt.
    """
    return [[int(accepted)] + [0] * (int(drafts) - 1) for accepted, drafts in counts if drafts]


def sampled_table(comparisons: list[Sampled]) -> str:
    """Markdown, one row a draft."""
    rows = [
        "| draft | temperature | prompts | drafts: vLLM | ours | acceptance length (95 %): vLLM | ours | difference |",
        "|---|--:|--:|--:|--:|---|---|--:|",
    ]
    return "\n".join([*rows, *(f"| {' | '.join(c.cells())} |" for c in comparisons)])


def with_interval(length: float, interval: Sequence[float] | None) -> str:
    """An acceptance length, and its interval if there is one."""
    return f"{length:.3f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def table(comparisons: list[Comparison]) -> str:
    """Markdown, one row a draft."""
    rows = [
        "| draft | dtype | drafted | prompts | same text as without | as ours | acceptance length: vLLM | ours | "
        "difference | by position: vLLM | ours | tokens/s: with | without |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|---|---|--:|--:|",
    ]
    for c in comparisons:
        positions = [
            ", ".join(f"{p:.2f}" for p in each) for each in (c.per_position, c.result["acceptance_per_position"])
        ]
        own = c.result["acceptance_length_interval"] if c.interval else None
        cells = (
            *(
                c.name,
                c.dtype,
                c.result["speculative_tokens"],
                c.result["num_prompts"],
                c.same_as_plain,
                c.same_as_ours,
            ),
            *(with_interval(c.acceptance_length, c.interval), with_interval(c.result["acceptance_length"], own)),
            *(f"{c.difference:+.1%}", *positions),
            *(("–", "–") if c.interval else (f"{c.tokens_per_second:.0f}", f"{c.plain_tokens_per_second:.0f}")),
        )
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def main() -> None:
    """Compare every checkpoint, print the table, exit with 1 if something disagrees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="published folders")
    parser.add_argument("--vllm-python", required=True, type=Path, help="interpreter of an environment with vLLM")
    parser.add_argument("--evaluation", type=Path, help="evaluation to compare with, of the one checkpoint given")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype that vLLM computes in"
    )
    parser.add_argument(
        "--interval", action="store_true", help="one prompt after another; 95 %% intervals over prompts"
    )
    parser.add_argument("--stitched", type=Path, help="a verifier that has the tensors of the one draft given")
    parser.add_argument("--temperature", type=float, help="compare sampled drafts; that of the evaluations")
    parser.add_argument(
        "--at-once", type=int, default=1, help="engines that run side by side; more than one and speeds say nothing"
    )
    parser.add_argument("--write", type=Path, help="write the table there as well")
    options = parser.parse_args()
    if (options.evaluation or options.stitched) and len(options.checkpoints) > 1:
        parser.error("--evaluation and --stitched go with one checkpoint")
    drafts = [Draft(folder, options.evaluation or folder.resolve().parent, options) for folder in options.checkpoints]
    ask = partial(ask_all, options.vllm_python, options.at_once)
    heading = "# Published drafts in vLLM 0.32.0 on the CPU, against `speculators evaluate`"
    comparisons: Sequence[Comparison | Sampled]
    if options.temperature:
        heading += ", sampled"
        comparisons = sampled = compare_sampled(drafts, ask, options.temperature)
        text = sampled_table(sampled)
    else:
        heading += ", one prompt after another; in brackets 95 % intervals over prompts" if options.interval else ""
        comparisons = greedy = compare(drafts, ask, options.interval)
        text = table(greedy)
    print(text)
    if options.write:
        options.write.parent.mkdir(exist_ok=True)
        options.write.write_text(f"{heading}\n\n{text}\n")
    failures = [failure for comparison in comparisons for failure in comparison.failures()]
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
