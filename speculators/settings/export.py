"""Settings of `export`: engine and form of the published checkpoint."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from speculators.utils.hub import hub_id, repository
from speculators.utils.strict import PositiveInt, Strict

# First and last number of requests in a batch, and tokens to draft in batches of these sizes.
BatchSizes = Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]


def _ascending(ranges: list[list[int]]) -> list[list[int]]:
    if not ranges or ranges[0][0] != 1:
        raise ValueError("the first range begins with 1 request")
    for (first, last, _), follows in zip(ranges, [*ranges[1:], None], strict=True):
        if last < first or follows is not None and follows[0] != last + 1:
            raise ValueError(f"{[first, last]}: a range ends after it begins, and the next one begins right after it")
    return ranges


def _license(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        raise ValueError("must be a licence as the Hub abbreviates it, such as apache-2.0")
    return name


class ExportSettings(Strict):
    """Target engine and dtype of the published checkpoint."""

    target: Literal["auto", "vllm", "none"] = Field(
        description="engine that serves the draft; auto is the first that can"
    )
    engine_version: str = Field(min_length=1, description="version of the engine whose rules are checked")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(description="dtype of the published weights")
    num_speculative_tokens_per_batch_size: Annotated[list[BatchSizes], AfterValidator(_ascending)] | None = Field(
        description="tokens to draft by the number of requests in a batch, as [first, last, tokens]; null is one number"
    )
    enable_adaptive_verification: bool = Field(
        description="the engine verifies fewer tokens of drafts that are not confident"
    )
    stitched_verifier: bool = Field(
        description="also write a copy of the verifier in which the trained tensors take the place of its own"
    )

    hub_repo: Annotated[str, AfterValidator(repository)] | None = Field(
        description="repository of the Hub, as OWNER/NAME, to which the measured draft is pushed; null pushes nothing"
    )
    license: Annotated[str, AfterValidator(_license)] | None = Field(
        description="licence of the draft, as the Hub abbreviates it, such as apache-2.0; for its model card"
    )
    base_model: Annotated[str, AfterValidator(hub_id)] | None = Field(
        description="the verifier's name on the Hub, for what is pushed; null is the name that its config.json has"
    )

    def serving_options(self) -> dict[str, Any]:
        """The options, named as in vLLM's `--speculative-config`, that are set."""
        options = {
            "num_speculative_tokens_per_batch_size": self.num_speculative_tokens_per_batch_size,
            "enable_adaptive_verification": self.enable_adaptive_verification,
        }
        return {key: value for key, value in options.items() if value}
