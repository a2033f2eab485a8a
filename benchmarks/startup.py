"""How long --help, --cfg job and completion take, beside a bare Hydra application with as many groups and options.

    python benchmarks/startup.py --write benchmarks/results/startup.md

The bare application has the same folders and files of settings and a main function that does nothing. The two take
turns; the ratio is that of neighbours.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

BARE = """
import hydra

@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config):
    pass

main()
"""
OURS = "from speculators.cli.hydra_app import main\n\nmain()\n"
MODES = {
    "--help": (["--help"], {}),
    "--cfg job": (["--cfg", "job"], {}),
    "completion": (["-sc", "query=bash"], {"COMP_LINE": "train.py algor", "COMP_POINT": "14"}),
}


def bare_app(folder: Path) -> Path:
    """A script with a copy of the groups, free of what belongs to this project."""
    shutil.copytree(
        str(files("speculators.conf")), folder / "conf", ignore=shutil.ignore_patterns("*.py", "__pycache__")
    )
    main = folder / "conf" / "train.yaml"
    # Everything after `hydra:` is this project's own set-up of Hydra.
    main.write_text(main.read_text().split("\nhydra:")[0] + "\n")
    script = folder / "bare.py"
    script.write_text(BARE)
    return script


def seconds(script: Path, arguments: list[str], environment: dict[str, str]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, str(script), *arguments], check=True, capture_output=True, env=os.environ | environment
    )
    return time.perf_counter() - start


def loaded(script: Path, arguments: list[str], environment: dict[str, str]) -> list[str]:
    """Which heavy packages one call imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(script), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    return [name for name in ("torch", "pydantic", "transformers") if name in names]


def main() -> None:
    """Measure, print the table, exit with 1 if a call is too slow or imports too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="calls of each")
    parser.add_argument("--limit", type=float, default=1.3, help="largest median ratio")
    parser.add_argument("--write", type=Path, help="write the table there as well")
    options = parser.parse_args()
    rows = [
        "# Start-up beside a bare Hydra application with the same groups",
        "",
        "| | ratio of neighbours, median (range) | imports torch, pydantic or transformers |",
        "|---|--:|---|",
    ]
    failed = False
    with tempfile.TemporaryDirectory() as name:
        bare, ours = bare_app(Path(name)), Path(name) / "ours.py"
        ours.write_text(OURS)
        for mode, (arguments, environment) in MODES.items():
            for script in (bare, ours):
                seconds(script, arguments, environment)
            pairs = [
                seconds(ours, arguments, environment) / seconds(bare, arguments, environment)
                for _ in range(options.repeats)
            ]
            heavy = loaded(ours, arguments, environment)
            ratio = statistics.median(pairs)
            failed |= ratio > options.limit or bool(heavy)
            rows.append(f"| {mode} | {ratio:.2f} ({min(pairs):.2f} to {max(pairs):.2f}) | {', '.join(heavy) or 'no'} |")
    print("\n".join(rows))
    if options.write:
        options.write.write_text("\n".join(rows) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
