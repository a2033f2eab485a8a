"""The README's picture of a report: the top of a page, in headless Chromium.

    python train.py -m recipe=quick algorithm=eagle,eagle3,medusa proposal.speculative_tokens=2,5 \
        optimizer.lr=0.005,0.02 trainer.max_steps=40 trainer.eval_every=10 trainer.log_every=2 \
        evaluation.num_prompts=8 launch=inline hydra.sweep.dir=runs/sweeps/algorithms
    python tools/screenshot_report.py runs/sweeps/algorithms/report.html docs/images/report.png
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
# In pixels of the page; a screen of two pixels for each is sharp when the README is enlarged.
WIDTH, HEIGHT, SCALE = 1180, 1445, 2


def main(page: Path, image: Path) -> None:
    """Write `image`, a PNG of 256 colours; those of single trials are few pixels, so the widest spread is taken."""
    with tempfile.TemporaryDirectory() as profile:
        shot = Path(profile) / "shot.png"
        command = ["chromium", *FLAGS, f"--user-data-dir={profile}/profile", "--virtual-time-budget=5000"]
        command += [f"--window-size={WIDTH},{HEIGHT}", f"--force-device-scale-factor={SCALE}", f"--screenshot={shot}"]
        subprocess.run([*command, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)
        image.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(shot) as picture:
            picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                image, optimize=True
            )
    print(f"{image}, {image.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
