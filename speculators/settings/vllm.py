"""Settings of a vLLM server, of states or of answers."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from speculators.utils.strict import PositiveInt, Strict


def _address(url: str) -> str:
    parts = urlsplit(url)
    without = (parts.username, parts.password, parts.query, parts.fragment)
    # An invalid port raises a ValueError.
    if parts.scheme not in ("http", "https") or not parts.hostname or any(without) or parts.port == 0:
        raise ValueError("should be an address as http://HOST:PORT")
    return url.rstrip("/")


class VllmSettings(Strict):
    """A vLLM server that is given by its address, or started by the run."""

    url: Annotated[str, AfterValidator(_address)] | None = Field(
        description="address of a running server; null starts one for this run"
    )
    python: str | None = Field(
        min_length=1,
        description="Python of the environment in which the server is started; null is this run's own",
    )
    args: str | None = Field(
        min_length=1, description="arguments that are added to those of the started server, as on a command line"
    )
    concurrency: PositiveInt = Field(description="requests at the same time")
    timeout: float = Field(gt=0, description="seconds that the run waits for a server that does not answer")

    @model_validator(mode="after")
    def _started_or_given(self) -> Self:
        if self.url is not None and (self.python is not None or self.args is not None):
            raise ValueError("python and args are for a server that the run starts; leave them out, or leave out url")
        return self
