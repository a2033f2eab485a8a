"""Settings of `verifier_states`: who computes the verifier's states and where they are kept."""

from typing import Annotated, Literal
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


class InProcessStates(Strict):
    """Verifier states that the verifier computes in the training process, in every step."""

    source: Literal["in_process"]


class CachedStates(Strict):
    """Verifier states that are read from disk, computed once for all runs that use them."""

    source: Literal["cached"]


class ServedStates(Strict):
    """Verifier states that a vLLM server computes and delivers through a folder."""

    source: Literal["served"]
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
    folder: str | None = Field(
        min_length=1,
        description="folder to which the server writes the states; null is a temporary one, of a started server alone",
    )
    keep: bool = Field(description="keep the states on disk, for all runs that use them")
    concurrency: PositiveInt = Field(description="documents that are requested at the same time")
    prefetch_steps: int = Field(ge=0, description="optimizer steps whose states are requested before they are needed")
    timeout: float = Field(gt=0, description="seconds that the run waits for a server that does not answer")

    @model_validator(mode="after")
    def _started_or_given(self) -> "ServedStates":
        if self.url is None:
            return self
        if self.folder is None:
            raise ValueError(
                "a server that is given by url needs folder, its shared_storage_path as this machine sees it"
            )
        if self.python is not None or self.args is not None:
            raise ValueError("python and args are for a server that the run starts; leave them out, or leave out url")
        return self
