"""The markers and locks of a run's folder."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from speculators.runfolder.folder import Done, RunFolder


def test_done_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_done() is None
    folder.mark_done(Done(1.5, 0.25, 3.0))
    assert folder.read_done() == Done(1.5, 0.25, 3.0)
    folder.mark_done(Done(1.5, 0.25))
    assert json.loads(folder.done.read_text()) == {"seconds": 1.5, "memory_gb": 0.25}  # NaN is no JSON
    done = folder.read_done()
    assert done is not None and math.isnan(done.objective)


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "cannot be read as JSON"), ('{"seconds": 1}', "no memory_gb"), ("[]", "JSON object")]
)
def test_a_broken_marker_names_the_remedy(tmp_path: Path, text: str, reason: str) -> None:
    folder = RunFolder(tmp_path)
    folder.done.write_text(text)
    with pytest.raises(ValueError, match=f"DONE.*{reason}.*speculators run {tmp_path}"):
        folder.read_done()


def test_the_first_failure_stays_until_the_markers_are_cleared(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.mark_failed("Traceback ...\nValueError: the cause")
    folder.mark_failed("a process that waited for the first")
    assert folder.read_failed() == "Traceback ...\nValueError: the cause"
    folder.clear()
    assert folder.read_failed() is None


def test_a_lock_is_seen_by_others_and_ends_with_its_process(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.is_running()
    code = (
        "import sys, pathlib; from speculators.runfolder.folder import RunFolder\n"
        f"lock = RunFolder(pathlib.Path({str(tmp_path)!r})).lock()\n"
        "with lock, lock:\n    print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    assert folder.is_running()
    process.kill()
    process.communicate()
    assert not folder.is_running()
