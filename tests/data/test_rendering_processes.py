"""Several processes render what one does."""

import json
import os
from pathlib import Path

import pytest

from speculators.composition.compose import compose
from speculators.data import prepare as module
from speculators.data.prepare import prepare
from speculators.data.rendering_processes import MOST_PROCESSES, PER_PROCESS, processes_for
from speculators.data.template import ChatTemplate
from tests.data.test_golden_batches import digest, rows


@pytest.mark.slow
def test_it_is_what_one_process_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch, what is left out with the first place of each reason, and what is cut; three processes have uneven parts."""
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    settings = ["data=jsonl", f"data.path={tmp_path / 'data.jsonl'}", "data.max_length=64", "data.heldout_fraction=0.2"]
    run = compose(settings)
    template = ChatTemplate.of(run.verifier, run.data)
    expected = prepare(run.data, template, 4096, run.seed)
    monkeypatch.setattr(module, "processes_for", lambda conversations: 3)
    made = prepare(run.data, template, 4096, run.seed, verifier=run.verifier)
    assert digest(made) == digest(expected) and made.report == expected.report
    assert made.report.cut and len(made.report.skipped) > 1 and made.report.left_out

    monkeypatch.setattr(module, "processes_for", lambda conversations: 2)
    broken = run.verifier.model_copy(update={"name_or_path": str(tmp_path)})
    with pytest.raises(RuntimeError, match="(?s)ended with exit code 1:.*cannot be loaded"):
        prepare(run.data, template, 4096, run.seed, verifier=broken)


def test_small_sources_start_none() -> None:
    """A source of one process's size is rendered in the run's own."""
    assert processes_for(2 * PER_PROCESS - 1) < 2
    assert processes_for(10**9) == min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
