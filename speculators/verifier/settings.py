"""Settings of the verifier. Torch-free."""

from typing import Literal

from pydantic import Field

from speculators.utils.strict import Strict


class VerifierSettings(Strict):
    """The frozen model that the draft drafts for."""

    name_or_path: str = Field(min_length=1, description="hub id, folder, or pkg://package/folder")
    revision: str | None = Field(description="branch, tag or commit on the hub; null is the default branch")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        description="dtype that the verifier runs in; auto is float32 on a CPU and the checkpoint's dtype on an accelerator"
    )
    trust_remote_code: bool = Field(description="allow running Python code from the verifier's repository")
