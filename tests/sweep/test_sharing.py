"""What the trials of a sweep share beside their trainings."""

import json
from pathlib import Path

import pytest

from .conftest import Sweep, rows


@pytest.mark.slow
def test_trials_share_tokenisation_and_states(sweep: Sweep, tmp_path: Path) -> None:
    """Four trials, one tokenisation, one extraction; the last trials read fewer layers, and add nothing."""
    trials = ["algorithm=eagle3,medusa", "optimizer.lr=0.001,0.002"]
    done = sweep(*trials, "verifier_states=cached", f"cache.dir={tmp_path / 'cache'}", "trainer.max_steps=1")
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(tmp_path)] == ["done"] * 4
    manifests = {f.parent.name: json.loads(f.read_text()) for f in (tmp_path / "cache").glob("*/manifest.json")}
    assert sorted(name.partition("-")[0] for name in manifests) == ["states", "tokenised"]
    assert [manifest["extractions"] for manifest in manifests.values()] == [1, 1]
