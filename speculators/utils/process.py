"""Exit codes, rank and logging of a run's processes. Torch-free."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speculators.utils.secrets import Mask

STOPPED_BY_SIGNAL = 130  # exit code
# Logs lines that were printed on the terminal, for log files alone.
printed = logging.getLogger("speculators.printed")
# Runs a module in a process that Linux ends (PR_SET_PDEATHSIG = 1, SIGTERM = 15) when the run is killed, which then cannot do it.
# The first argument is the run's process id: it may have ended already.
END_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])
"""


class NotPrinted(logging.Filter):
    """Drops the records of `printed`; for handlers that write to the terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name != printed.name


@contextmanager
def closed_pipe() -> Iterator[None]:
    """End the process with exit code 1 and without a traceback if the reader of its stdout goes away, as `head` does."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def module_command(python: str, module: str) -> list[str]:
    """The beginning of a command that runs a module in a process which, on Linux, does not outlive this one."""
    how = ["-c", END_WITH_PARENT, str(os.getpid())] if sys.platform == "linux" else ["-m"]
    return [python, *how, module]


def first_process() -> bool:
    """Whether this process prints and writes files for a run: under torchrun, only rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


def under_torchrun() -> bool:
    """Whether torchrun started this process as one of several of a run."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def keep_the_path_safe() -> None:
    """Have processes that this one starts import nothing from the current folder, as `python -m` and `-c` otherwise do."""
    os.environ["PYTHONSAFEPATH"] = "1"


def start_log(log_file: Path) -> None:
    """Log to stdout, and with timestamps to a log file, as Hydra does for a run that it starts."""
    screen = logging.StreamHandler(sys.stdout)
    screen.setFormatter(logging.Formatter("%(message)s"))
    log_to(_to_file(log_file), screen)


@contextmanager
def logging_to(log_file: Path) -> Iterator[None]:
    """While entered, log this package's records to a file as well, and leave the logging of the program as it is."""
    handler, own = _to_file(log_file), logging.getLogger("speculators")
    handler.addFilter(Mask())
    level = own.level
    own.addHandler(handler)
    own.setLevel(logging.INFO)
    try:
        yield
    finally:
        own.removeHandler(handler)
        own.setLevel(level)
        handler.close()


def _to_file(log_file: Path) -> logging.Handler:
    file = logging.FileHandler(log_file, encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    return file


def log_to(*handlers: logging.Handler) -> None:
    """Send log records to handlers, secrets masked; from noisy packages and ranks other than 0 only warnings and above."""
    level = logging.INFO if first_process() else logging.WARNING
    logging.basicConfig(level=level, handlers=handlers, force=True)
    for noisy in ("accelerate", "matplotlib", "httpx2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    mask_logs()


def mask_logs() -> None:
    """Mask secrets in what the root logger's handlers write; what was printed goes to files alone."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(Mask())
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(NotPrinted())
