"""A disk that is full, a folder that cannot be written, few open files, a clock that goes back: said, and nothing is lost."""

import atexit
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from speculators.cli import callbacks
from speculators.sweep.trial import STOPPED
from speculators.utils.resources import remedy
from tests.run.children import TINY, WEIGHTS, ended, made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, whose size can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def used(folder: Path) -> int:
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.slow
@pytest.mark.parametrize("states", [pytest.param("in_process", marks=pytest.mark.long), "cached"])
def test_a_disk_that_is_full_at_any_write(states: str, disk: Path, tmp_path: Path) -> None:
    """At three sizes between what is there before and what a run needs: the message says it, and the same call ends the run."""
    said = tmp_path / "said"
    reference = made(disk / "whole", f"verifier_states={states}")
    before = used(disk)
    assert ended(reference, said) == 0
    need, weights = used(disk) - before, (reference / WEIGHTS).read_bytes()
    failed = 0
    for part in range(3):
        folder = made(disk / f"part_{part}", f"verifier_states={states}")
        remount(disk, f"size={used(disk) + need * part // 3 + 4096}")
        said.write_text("")
        code = ended(folder, said)
        remount(disk, "size=1g")
        if code:
            failed += 1
            text = said.read_text()
            assert code == 1 and "disk" in text, text
        assert ended(folder, said) == 0, said.read_text()
        assert (folder / WEIGHTS).read_bytes() == weights
    assert failed >= 2


@pytest.mark.slow
def test_a_folder_that_cannot_be_written(disk: Path, tmp_path: Path) -> None:
    """One line, without a traceback; the same command works once it can be."""
    folder, said = made(disk / "run"), tmp_path / "said"
    remount(disk, "ro")
    for words in (
        ["run", str(folder)],
        ["train", *TINY, f"data.path={folder / 'data.jsonl'}", f"hydra.run.dir={disk / 'new'}"],
    ):
        command = [sys.executable, "-m", "speculators", *words, f"cache.dir={tmp_path / 'cache'}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
        assert "Read-only file system" in done.stderr or "cannot be written" in done.stderr, done.stderr
    remount(disk, "rw")
    assert ended(folder, said) == 0, said.read_text()


@pytest.mark.slow
def test_few_open_files(tmp_path: Path) -> None:
    """The run fails with the remedy, or needs no more; afterwards it ends as it would have."""
    folder, said = made(tmp_path / "run"), tmp_path / "said"
    assert ended(folder, said, open_files=9) == 1
    text = said.read_text()
    assert "ulimit -n" in text, text
    assert ended(folder, said) == 0, text


def test_what_the_system_refused_has_a_remedy() -> None:
    """Also where a library has wrapped the error, or is not Python."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = full
    rust = RuntimeError("I/O error: No space left on device (os error 28)")
    assert [remedy(e) for e in (full, wrapped, rust)] == [remedy(full)] * 3 and "free some space" in str(remedy(full))
    assert "ulimit" in str(remedy(OSError(errno.EMFILE, "x"))) and "another folder" in str(
        remedy(PermissionError(13, "x"))
    )
    assert remedy(ValueError("no space left for an answer")) is None and remedy(FileNotFoundError(2, "x")) is None


def test_a_clock_that_goes_back_hides_no_failure(tmp_path: Path) -> None:
    """A sweep whose trial fails exits with 1, whatever time its files have; failures of earlier attempts do not count."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "old" / "FAILED").write_text("earlier")
    config, results = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}), callbacks.Results()
    results.on_multirun_start(config)
    assert not (tmp_path / STOPPED).exists()
    results.on_multirun_end(config)
    (tmp_path / "new" / "FAILED").write_text("now")
    os.utime(tmp_path / "new" / "FAILED", (1, 1))
    with pytest.raises(SystemExit) as ended:
        results.on_multirun_end(config)
    assert ended.value.code == 1
    atexit.unregister(callbacks._show)
