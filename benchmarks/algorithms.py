"""Train every algorithm there is on the embedded verifier, and measure it by decoding, before and after.

    python benchmarks/algorithms.py --write docs/algorithms/README.md

Each algorithm runs with the settings of its YAML. The same held-out prompts are decoded with 1, 2, ... speculative
tokens, as many as it can draft, with the draft as training starts with it and as it ends.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HEADER = """# Algorithms

One page each: the idea, tensors, settings, what serves it. The table is written by `benchmarks/algorithms.py`.

{conditions}

"""


def measure(name: str, folder: Path, most: int) -> dict[str, Any]:
    """Train one algorithm; what it is, took, and accepts."""
    import torch
    from accelerate.utils import set_seed

    from speculators.composition.compose import compose
    from speculators.config import SpeculatorModelConfig
    from speculators.data.prepare import prepare
    from speculators.data.template import ChatTemplate
    from speculators.evaluate.evaluate import evaluate
    from speculators.format.published import speculator_dict
    from speculators.protocols.initialisation import Initialisation
    from speculators.train.build import build
    from speculators.train.loop import train
    from speculators.utils.device import resolve
    from speculators.verifier.facts import VerifierFacts
    from speculators.verifier.in_process import Verifier

    run = compose([f"algorithm={name}", "tracker=none"])
    device = resolve(run.device)
    facts = VerifierFacts.read(run.verifier.name_or_path)
    verifier = Verifier.load(run.verifier, device)
    set_seed(run.seed)
    prepared = prepare(run.data, ChatTemplate.of(run.verifier, run.data), facts.vocab_size, run.seed)
    set_seed(run.seed)
    config = SpeculatorModelConfig.from_dict(speculator_dict(run, facts))
    model = build(config, Initialisation(verifier.head, prepared.token_count_V), device)
    counts = range(1, (most if run.algorithm.recurrent else min(most, run.algorithm.slots)) + 1)

    def lengths() -> list[dict[str, Any]]:
        results = []
        for count in counts:
            proposal = run.proposal.model_copy(update={"speculative_tokens": count})
            result = evaluate(model, verifier, prepared.prompts, proposal, run.evaluation, run.seed)
            if result.matches_plain_decoding is False:
                raise RuntimeError(f"{name} with {count} speculative tokens: the text is not the verifier's")
            results.append({
                "speculative_tokens": count,
                "acceptance_length": result.acceptance_length,
                "tokens_per_second": result.tokens_per_second,
                "speedup": result.tokens_per_second / result.plain_tokens_per_second,
            })  # fmt: skip
        return results

    untrained = lengths()
    trained = train(model, verifier, prepared, run, folder)
    return {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "seconds": trained.seconds,
        "steps": trained.steps,
        "num_prompts": run.evaluation.num_prompts,
        "max_new_tokens": run.evaluation.max_new_tokens,
        "verifier": run.verifier.name_or_path,
        "threads": torch.get_num_threads(),
        "untrained": untrained,
        "trained": lengths(),
    }


def table(measured: list[dict[str, Any]]) -> str:
    """The page."""
    first = measured[0]
    conditions = (
        f"Verifier {first['verifier']}, embedded chat data, the settings of each algorithm's YAML; {first['num_prompts']} "
        f"held-out prompts of at most {first['max_new_tokens']} new tokens, greedy, float32, every text equal to the "
        f"verifier's own. Trained in one process each, one after another, on {first['threads']} threads of a CPU "
        f"({platform.machine()}), torch {version('torch')}. Times and tokens/s are of that machine and compare only within "
        "the table; on so small a verifier a draft pass costs nearly what a verifier pass does."
    )
    counts = sorted({r["speculative_tokens"] for m in measured for r in m["trained"]})
    columns = ["algorithm", "trainable parameters", "training", "draft", *(f"K={k}" for k in counts)]
    columns += ["tokens/s, best K", "beside plain decoding"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for m in measured:
        for draft in ("trained", "untrained"):
            by_count = {r["speculative_tokens"]: r for r in m[draft]}
            best = max(m[draft], key=lambda r: r["tokens_per_second"])
            cells = [f"[{m['name']}]({m['name']}.md)", f"{m['parameters'] / 1e6:.2f} M", f"{m['seconds']:.0f} s"]
            cells = cells if draft == "trained" else ["", "", ""]
            cells += [draft, *(f"{by_count[k]['acceptance_length']:.2f}" if k in by_count else "-" for k in counts)]
            cells += [f"{best['tokens_per_second']:.0f} (K={best['speculative_tokens']})", f"{best['speedup']:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    closing = (
        "\nK is `proposal.speculative_tokens`; the columns under it are acceptance lengths, 1 + accepted / drafts.\n"
    )
    return HEADER.format(conditions=conditions) + "\n".join(lines) + "\n" + closing


def main() -> None:
    """Each algorithm in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", help="measure this one here, print JSON, and stop")
    parser.add_argument("--speculative-tokens", type=int, default=5, help="the most that are drafted")
    parser.add_argument("--write", type=Path, help="write the page there as well")
    args = parser.parse_args()
    if args.algorithm:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(args.algorithm, Path(folder), args.speculative_tokens)))
        return
    from speculators.settings.algorithm import AlgorithmSettings

    measured = []
    for name in AlgorithmSettings.names():
        command = [sys.executable, __file__, f"--algorithm={name}", f"--speculative-tokens={args.speculative_tokens}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured.append(json.loads(done.stdout.splitlines()[-1]))
        print(measured[-1], flush=True)
    page = table(measured)
    print(page)
    if args.write:
        args.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
