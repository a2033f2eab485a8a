"""Whether two checkouts train the same weights, bit by bit: a short run of each algorithm in both, on the embedded verifier.

python benchmarks/same_weights.py OLD_CHECKOUT [--old-python PYTHON] [--algorithms eagle eagle3] [overrides ...]

Each checkout runs under its own Python, into which its package is installed. Exits with 1 where a tensor differs.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
SHORT = ["proposal=greedy", "trainer.max_steps=12", "evaluation.num_prompts=2", "evaluation.max_new_tokens=8"]


def train(checkout: Path, python: str, algorithm: str, overrides: list[str], folder: Path) -> dict[str, torch.Tensor]:
    """The published tensors of a short run, by name."""
    command = [python, "train.py", f"algorithm={algorithm}", *SHORT, *overrides, f"hydra.run.dir={folder}"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} in {checkout} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return load_file(folder / "checkpoint" / "model.safetensors")


def main() -> None:
    """A line for each algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="the other checkout")
    parser.add_argument("--old-python", default=sys.executable, help="the Python that has the other checkout's package")
    parser.add_argument("--algorithms", nargs="+", help="those of the old checkout unless given")
    parser.add_argument("overrides", nargs="*", help="of both runs")
    args = parser.parse_args()
    names = args.algorithms or sorted(file.stem for file in (args.old / "conf" / "algorithm").glob("*.yaml"))
    same = True
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            old = train(args.old, args.old_python, name, args.overrides, Path(scratch) / f"old_{name}")
            new = train(ROOT, sys.executable, name, args.overrides, Path(scratch) / f"new_{name}")
            differing = sorted(
                k for k in old.keys() | new.keys() if k not in old or k not in new or not old[k].equal(new[k])
            )
            same = same and not differing
            print(
                f"{name}: {len(old)} tensors, {'bit-equal' if not differing else 'differing: ' + ', '.join(differing)}",
                flush=True,
            )
    sys.exit(not same)


if __name__ == "__main__":
    main()
