"""The part of a published config that says how the draft is used: algorithm, proposals, verifier. Torch-free."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import hf_hub_download
from pydantic import BaseModel, Field, model_validator

from speculators.proposals import TokenProposalConfig
from speculators.utils.pydantic_utils import ReloadableBaseModel
from speculators.utils.untrusted import read_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# The upstream release whose format is written; our own version stands in a run's run.yaml.
FORMAT_VERSION = "0.9.0"
CONFIG = "config.json"


class VerifierConfig(BaseModel):
    """The model that the draft was trained for."""

    name_or_path: str | None = Field(description="hub id or folder; null if not recorded")
    architectures: list[str] = Field(description="architectures in the verifier's own config.json")

    @classmethod
    def from_config(cls, config: "PretrainedConfig", name_or_path: str | None = "UNSET") -> "VerifierConfig":
        """Describe a verifier whose config is loaded.

        Args:
            config: the verifier's config.
            name_or_path: what to call it; None writes no name, and if left out the config's own name is taken.
        """
        values = config.to_dict()
        if name_or_path == "UNSET":
            name_or_path = config.name_or_path or values.get("_name_or_path") or values.get("name_or_path")
        return cls(name_or_path=name_or_path, architectures=values.get("architectures") or [])

    @classmethod
    def from_pretrained(cls, name_or_path: str, **kwargs: Any) -> "VerifierConfig":
        """Describe a verifier by its config.json, which always has its architectures.

        Args:
            name_or_path: hub id or folder.
            kwargs: for `huggingface_hub.hf_hub_download`: cache_dir, revision, token, ...
        """
        path = Path(name_or_path)
        file = (
            path / CONFIG
            if path.is_dir()
            else path
            if path.is_file()
            else hf_hub_download(name_or_path, CONFIG, **kwargs)
        )
        values = read_json(Path(file))
        return cls(name_or_path=name_or_path, architectures=values.get("architectures") or [])


class SpeculatorsConfig(ReloadableBaseModel):
    """How the draft is used: algorithm, proposals, verifier. Engines read the first proposal."""

    algorithm: str = Field(description="the algorithm's name")
    proposal_methods: list[TokenProposalConfig] = Field(description="how tokens may be proposed")
    default_proposal_method: str = Field(description="proposal_type of the proposal that is used by default")
    verifier: VerifierConfig = Field(description="the model that the draft was trained for")

    @model_validator(mode="after")
    def check_default_proposal_method(self) -> "SpeculatorsConfig":
        """Refuse a default that is none of the proposals."""
        available = [method.proposal_type for method in self.proposal_methods]
        if self.default_proposal_method not in available:
            raise ValueError(
                f"default_proposal_method '{self.default_proposal_method}' must match the proposal_type of one of the "
                f"configured proposal_methods. Available proposal types: {available}."
            )
        return self
