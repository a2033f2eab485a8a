"""Writing a file whole or not at all. Torch-free."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes `file` when the block ends; if the block raises, `file` stays as it was.

    The content is on the disk before the name is: after a crash of the machine there is the old file or the new one, never
    a part.

    Args:
        file: its folder exists; two processes may replace it at the same time, the last one wins.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}{PARTIAL}")
    partial.unlink(missing_ok=True)  # writing would follow a link of this name
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write(file: Path, content: str | bytes) -> None:
    """Replace a file's content, whole or not at all.

    Args:
        file: its folder exists.
        content: text is written as UTF-8.
    """
    with replacing(file) as partial, partial.open("xb") as opened:
        opened.write(content.encode() if isinstance(content, str) else content)
