"""What `dry_run=true` says a run takes, beside what the run takes: peak resident memory on the CPU.

    python benchmarks/plan.py --write benchmarks/results/plan.md
    python benchmarks/plan.py --smollm2 FOLDER --data FILE --write benchmarks/results/plan.md

Each run is a process of its own, of a few steps: the heap of the C library has grown to its size by then. Exits with 1
if a prediction is off by more than --limit.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

SHORT = [
    "trainer.max_steps=8",
    "data.max_conversations=300",
    "evaluation.num_prompts=8",
    "evaluation.max_new_tokens=16",
]
BIG = ["data.max_length=1024", "trainer.batch_size=8"]
TINY = [
    ["algorithm=eagle3"],
    ["algorithm=eagle3", "algorithm.ttt_steps=5"],
    ["algorithm=eagle3", *BIG],
    ["algorithm=eagle"],
    ["algorithm=eagle", *BIG],
    ["algorithm=medusa"],
    ["algorithm=medusa", *BIG],
    ["algorithm=eagle3", "optimizer=adamw", "trainer.gradient_accumulation_steps=2"],
]


def predicted(overrides: list[str]) -> float:
    """Bytes that the plan says."""
    command = [sys.executable, "-m", "speculators", "train", *overrides, "dry_run=true"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"peak memory \(cpu\) +([\d.,]+) GB", done.stderr)
    assert found, done.stderr
    return float(found[1].replace(",", "")) * 1e9


def measured(overrides: list[str]) -> float:
    """Peak resident bytes of the run's process, as its DONE says."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "speculators", "train", *overrides, f"hydra.run.dir={folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads((Path(folder) / "run" / "DONE").read_text())["memory_gb"] * 1e9


def main() -> None:
    """Measure, print the table, exit with 1 if a prediction is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, help="conversations for it")
    parser.add_argument("--limit", type=float, default=0.15, help="largest error, as a share of what was measured")
    parser.add_argument("--write", type=Path, help="write the table there as well")
    options = parser.parse_args()
    cases = [(case, case) for case in TINY]
    if options.smollm2 and options.data:
        shown = ["recipe=smollm2_eagle3", "data.regenerate=false", "verifier_states=in_process"]
        paths = [f"verifier.name_or_path={options.smollm2.resolve()}", f"data.path={options.data.resolve()}"]
        cases.append((shown, [*shown, *paths]))
    rows = [
        "# The plan's peak memory beside the run's",
        "",
        f"Resident memory of the process on the CPU, GB; torch {version('torch')}, {os.cpu_count()} cores. "
        f"Besides: `{' '.join(SHORT)}`.",
        "",
        "| run | plan | measured | ratio |",
        "|---|--:|--:|--:|",
    ]
    worst = 0.0
    for shown, overrides in cases:
        overrides = [*overrides, "device=cpu", *SHORT]
        plan, real = predicted(overrides), measured(overrides)
        worst = max(worst, abs(plan / real - 1))
        rows.append(f"| `{' '.join(shown)}` | {plan / 1e9:.2f} | {real / 1e9:.2f} | {plan / real:.2f} |")
        print(rows[-1], flush=True)
    rows += ["", f"Largest error: {worst:.0%}."]
    print(*rows, sep="\n")
    if options.write:
        options.write.write_text("\n".join(rows) + "\n")
    sys.exit(worst > options.limit)


if __name__ == "__main__":
    main()
