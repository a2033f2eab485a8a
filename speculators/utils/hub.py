"""Whether the Hub can be reached: asked once by each process, before a file is looked for there. Torch-free."""

import logging
from functools import cache

from huggingface_hub import constants
from huggingface_hub.utils import get_session

log = logging.getLogger(__name__)
SECONDS = 5.0


@cache
def offline_unless_reachable() -> None:
    """Go offline, so that files come from the local cache alone, if the Hub does not answer within `SECONDS`.

    Otherwise huggingface_hub and datasets retry for half a minute for each file.
    """
    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # the client's HTTP library, and so the exception, differs between its versions
        log.warning("%s cannot be reached (%s); files come from the local cache alone", constants.ENDPOINT, error)
        constants.HF_HUB_OFFLINE = True
