"""Atomic replacement of files. Torch-free."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path that replaces `file` when the block ends; if the block raises, `file` is unchanged.

    The content is synced to disk before the rename: after a crash of the machine there is the old file or the new one,
    never a partial one.

    Args:
        file: its folder exists; if two processes replace it at the same time, the last one wins.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}{PARTIAL}")
    partial.unlink(missing_ok=True)  # writing would follow a symbolic link of this name
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write(file: Path, content: str | bytes | memoryview) -> None:
    """Replace a file's content atomically.

    Args:
        file: its folder exists.
        content: text is written as UTF-8.
    """
    with replacing(file) as partial, partial.open("xb") as opened:
        opened.write(content.encode() if isinstance(content, str) else content)
