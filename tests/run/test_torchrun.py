"""The parent of a run in several processes."""

import signal
import threading
import time
from pathlib import Path

import pytest

from speculators.composition.compose import pinned
from speculators.execution import torchrun
from speculators.runfolder.folder import RunFolder


def test_it_waits_for_another_run_that_trains_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it starts the processes, none of which may wait while the others are in a collective operation."""
    pinned(["launch=torchrun"], tmp_path)
    locked, happened = threading.Event(), list[str]()

    def other() -> None:
        with RunFolder(tmp_path).training_lock():
            locked.set()
            time.sleep(0.3)
            happened.append("the other run ends")

    monkeypatch.setattr(torchrun, "torchrun", lambda words: happened.append("the processes start"))
    before = signal.getsignal(signal.SIGUSR1)
    thread = threading.Thread(target=other)
    thread.start()
    locked.wait()
    try:
        with RunFolder(tmp_path).lock():
            torchrun.run_in_processes(tmp_path)
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join()
    assert happened == ["the other run ends", "the processes start"]
