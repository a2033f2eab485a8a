"""Training from cached states."""

from pathlib import Path

import pytest
import torch

from speculators.cache.store import LOCKS, Store
from speculators.data.cached_states import cached_states
from speculators.train.loop import train
from speculators.verifier.loader import VerifierLoader
from speculators.verifier.settings import VerifierSettings


@pytest.mark.parametrize("batch_size", [1, 2])
def test_training_is_that_with_the_verifier_in_process(
    make_run, lines, fresh, verifier, llama, prepared, tmp_path: Path, batch_size: int
) -> None:
    """Bit-equal one sequence at a time, within rounding in batches."""
    run = make_run(trainer={"epochs": 2, "eval_every": 4, "batch_size": batch_size, "log_every": 1})
    for name in ("online", "cached"):
        (tmp_path / name).mkdir()
    online = fresh(run)
    expected = train(online, verifier, prepared, run, tmp_path / "online")

    llama.save_pretrained(tmp_path / "verifier")
    named = VerifierSettings(
        name_or_path=str(tmp_path / "verifier"), revision=None, dtype="auto", trust_remote_code=False
    )
    (tmp_path / "cache" / LOCKS).mkdir(parents=True)
    store, cached = Store(tmp_path / "cache", None), fresh(run)
    loader = VerifierLoader(named, verifier.device)
    with cached_states(store, loader, [*prepared.train, *prepared.heldout], cached.layer_ids) as states:
        result = train(cached, states, prepared, run, tmp_path / "cached")
    tolerance = {"rel": 0, "abs": 0} if batch_size == 1 else {"rel": 1e-4}
    for kind in ("train", "heldout"):
        losses = [[line["loss"] for line in lines(tmp_path / name, kind)] for name in ("cached", "online")]
        assert losses[0] == pytest.approx(losses[1], **tolerance) and len(losses[0]) > 2
    assert result.heldout["acceptance"] == pytest.approx(expected.heldout["acceptance"], **tolerance)
    for a, b in zip(cached.parameters(), online.parameters(), strict=True):
        assert torch.equal(a, b) if batch_size == 1 else torch.allclose(a, b, atol=1e-3)
