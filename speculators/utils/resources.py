"""What to do about errors of the operating system: a full disk, a folder that cannot be written, too few open files."""

import errno
import os

FULL = "the disk is full: free some space and repeat the command, which resumes from what is saved"
REFUSED = "the file cannot be written: choose another folder, or change the permissions"
FEW = "this process may not open more files: raise the limit (`ulimit -n 4096`) and repeat the command, which resumes"
REMEDIES = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EROFS: REFUSED,
    errno.EACCES: REFUSED,
    errno.EPERM: REFUSED,
    errno.EMFILE: FEW,
    errno.ENFILE: FEW,
}


def remedy(error: BaseException) -> str | None:
    """What to do about an error, or about the one that caused it; None if the operating system refused nothing."""
    cause: BaseException | None = error
    while cause is not None:
        for code, text in REMEDIES.items():
            # Libraries that are not Python raise errors of their own with the system's text in them.
            if (isinstance(cause, OSError) and cause.errno == code) or f"{os.strerror(code)} (os error" in str(cause):
                return text
        cause = cause.__cause__ or cause.__context__
    return None
