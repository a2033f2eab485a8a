"""The Hub: names of repositories, and whether it can be reached. Torch-free."""

import logging
from functools import cache

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import get_session, validate_repo_id

log = logging.getLogger(__name__)
SECONDS = 5.0


def hub_id(name: str) -> str:
    """A name that a repository of the Hub can have, unchanged; ValueError for another."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError("must be a name on the Hub, such as Qwen/Qwen3-8B") from error
    return name


def repository(name: str) -> str:
    """The full name of a repository of the Hub, unchanged; ValueError for another."""
    if name.count("/") != 1:
        raise ValueError("must be a repository of the Hub, as OWNER/NAME")
    return hub_id(name)


def unreachable() -> str | None:
    """Why the Hub gives no answer within `SECONDS`; None if it gives one."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # the client's HTTP library, and so the exception, differs between its versions
        return str(error) or type(error).__name__
    return None


@cache
def offline_unless_reachable() -> None:
    """Go offline, so that files come from the local cache alone, if the Hub does not answer; asked once by each process.

    Otherwise huggingface_hub and datasets retry for half a minute for each file.
    """
    if not constants.HF_HUB_OFFLINE and (reason := unreachable()) is not None:
        log.warning("%s cannot be reached (%s); files come from the local cache alone", constants.ENDPOINT, reason)
        constants.HF_HUB_OFFLINE = True
