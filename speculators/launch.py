"""One run in this process, with what remains of it if it fails."""

import logging
import sys
import traceback
from pathlib import Path

log = logging.getLogger(__name__)
FAILED = "FAILED"


class RunFailed(Exception):
    """A run that was started did not end well; the message is printed, the traceback is in its folder."""


def launch(folder: Path) -> float:
    """Run what a folder's run.yaml pins.

    Args:
        folder: of the run; gets a file FAILED with the traceback if something goes wrong.

    Returns:
        What `run` returns.

    Raises:
        RunFailed: after the message was printed.
        speculators.train.interrupt.Interrupted: a signal stopped training; all is saved.
    """
    from speculators.run import run

    (folder / FAILED).unlink(missing_ok=True)
    try:
        return run(folder)
    except Exception as error:
        log.debug("the run failed", exc_info=True)
        (folder / FAILED).write_text(traceback.format_exc(), encoding="utf-8")
        print(f"the run failed: {error}\n  the traceback is in {folder / FAILED}", file=sys.stderr)
        raise RunFailed(str(error)) from error
