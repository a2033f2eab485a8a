"""A file is replaced whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from speculators.utils.files import replacing, write


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write(file, "größer\r\n")
    assert file.read_bytes() == "größer\r\n".encode()
    write(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [file]


def test_a_block_that_raises_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write(file, "old")
    with pytest.raises(KeyboardInterrupt), replacing(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write(file, "old")
    code = (
        "import os, signal, sys, pathlib; from speculators.utils.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)]).returncode == -signal.SIGKILL
    assert file.read_text() == "old"


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Neither the file itself, nor the one that is written before it gets the name."""
    victim, file = tmp_path / "victim", tmp_path / "file"
    victim.write_text("untouched")
    file.symlink_to(victim)
    (tmp_path / f"file.{os.getpid()}.partial").symlink_to(victim)
    write(file, "new")
    assert victim.read_text() == "untouched" and file.read_text() == "new" and not file.is_symlink()
