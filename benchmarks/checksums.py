"""CPU seconds of all checksums of a run with cached states, beside those of its training steps.

    python benchmarks/checksums.py --write benchmarks/results/checksums.md [trainer.epochs=1 ...]

A default run without its evaluation, in one process and with a cache of its own. Every call of SHA-256 is measured, by
whatever module; what reads a file for its hash counts with it. The run does not resume; a resume reads its checkpoint once more.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

seconds = {"checksums": 0.0, "steps": 0.0}


def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A function that adds the CPU seconds of each call to `seconds`."""

    def measured(*args: Any, **options: Any) -> Any:
        start = time.process_time()
        try:
            return call(*args, **options)
        finally:
            seconds[name] += time.process_time() - start

    return measured


class Sha256:
    """hashlib's, measured."""

    def __init__(self, data: bytes = b"", **options: Any) -> None:
        self._hash = timed("checksums", original)(data, **options)
        self.update = timed("checksums", self._hash.update)
        self.digest, self.hexdigest = self._hash.digest, self._hash.hexdigest


# Before the project is imported, whose modules import the function itself.
original = hashlib.sha256
hashlib.sha256 = Sha256  # pyright: ignore[reportAttributeAccessIssue]
hashlib.file_digest = timed("checksums", hashlib.file_digest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="a file for the table")
    options, overrides = parser.parse_known_args()

    from speculators.composition.compose import pinned
    from speculators.execution.run import run
    from speculators.train.loop import Loop

    Loop.step = timed("steps", Loop.step)
    with tempfile.TemporaryDirectory() as folder:
        own = ["verifier_states=cached", f"cache.dir={folder}/cache", "evaluation.num_prompts=0", "tracker=none"]
        pinned([*own, *overrides], Path(folder) / "run")
        run(Path(folder) / "run")
    share = seconds["checksums"] / seconds["steps"]
    text = f"""# Checksums of a run with cached states

| CPU seconds | |
|---|--:|
| training steps | {seconds["steps"]:.1f} |
| all checksums | {seconds["checksums"]:.2f} |
| share | {share:.1%} |

`python benchmarks/checksums.py {" ".join(overrides)}`.
"""
    print(text)
    if options.write:
        options.write.write_text(text.replace(" `.", "`."), encoding="utf-8")


if __name__ == "__main__":
    main()
