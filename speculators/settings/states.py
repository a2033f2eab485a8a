"""Settings of `verifier_states`: who computes the verifier's states and where they are kept."""

from typing import Literal, Self

from pydantic import Field, model_validator

from speculators.settings.vllm import VllmSettings
from speculators.utils.strict import Strict


class InProcessStates(Strict):
    """Verifier states that the verifier computes in the training process, in every step."""

    source: Literal["in_process"]


class CachedStates(Strict):
    """Verifier states that are read from disk, computed once for all runs that use them."""

    source: Literal["cached"]


class ServedStates(VllmSettings):
    """Verifier states that a vLLM server computes and delivers through a folder."""

    source: Literal["served"]
    folder: str | None = Field(
        min_length=1,
        description="folder to which the server writes the states; null is a temporary one, of a started server alone",
    )
    keep: bool = Field(description="keep the states on disk, for all runs that use them")
    prefetch_steps: int = Field(ge=0, description="optimizer steps whose states are requested before they are needed")

    @model_validator(mode="after")
    def _folder_of_a_given_server(self) -> Self:
        if self.url is not None and self.folder is None:
            raise ValueError(
                "a server that is given by url needs folder, its shared_storage_path as this machine sees it"
            )
        return self
