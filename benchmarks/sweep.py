"""What a sweep costs beside its trials, and that its trials share what they can: the table of results/sweep.md.

    python benchmarks/sweep.py > benchmarks/results/sweep.md

Twelve short trials on the embedded verifier; the price of the sweep is its wall time less what the trials' own processes
measured, and what is counted is read from the folders.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIALS = ["algorithm=eagle,medusa", "proposal.speculative_tokens=1,2,3", "evaluation.max_new_tokens=8,16"]
SHORT = ["trainer.max_steps=10", "data.max_conversations=120", "evaluation.num_prompts=4", "tracker=none"]


def main() -> None:
    """Run it and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        sweep, cache = Path(folder) / "sweep", Path(folder) / "cache"
        command = [sys.executable, "-m", "speculators", "train", "-m", *TRIALS, *SHORT, "verifier_states=cached"]
        command += [f"hydra.sweep.dir={sweep}", f"cache.dir={cache}"]
        start = time.monotonic()
        subprocess.run(command, check=True, stdout=sys.stderr, cwd=folder)
        wall = time.monotonic() - start
        with (sweep / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        own = sum(float(row["seconds"]) for row in rows)
        manifests = [json.loads(file.read_text()) for file in cache.glob("states-*/manifest.json")]
        print(f"# {len(rows)} trials\n")
        print(f"`{' '.join(TRIALS)}`, {os.cpu_count()} CPU cores.\n")
        print("| | |\n|---|--:|")
        print(f"| trials done | {sum(row['status'] == 'done' for row in rows)} |")
        print(f"| trainings | {len(list((sweep / 'trainings').iterdir()))} |")
        print(f"| extractions of the verifier's states | {sum(m['extractions'] for m in manifests)} |")
        print(f"| whole sweep, s | {wall:.1f} |")
        print(f"| in its trials, s | {own:.1f} |")
        print(f"| a trial, beside what it does itself, s | {(wall - own) / len(rows):.2f} |")


if __name__ == "__main__":
    main()
