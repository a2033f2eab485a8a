"""What one version of an engine reads of a draft's checkpoint: `engines/<engine>-<version>.yaml`. Torch-free."""

from importlib.resources import files
from shlex import quote
from string import Template
from typing import Any, Literal

import yaml
from pydantic import Field

from speculators.algorithm import Strict


class Allowed(Strict):
    """The values of one key that an engine can serve."""

    key: str = Field(description="dotted path in the published config")
    values: list[Any]
    why: str = Field(description="what happens with any other value, and the remedy")


class CountOfLayers(Strict):
    """Where an engine's class learns how many verifier layers a draft reads, if not from the list itself."""

    model_type: str = Field(description="kind of decoder layer that this is true of")
    key: str = Field(description="dotted path in the published config")
    default: int = Field(description="what the engine assumes where the key is missing")


class DraftTable(Strict):
    """How an engine treats one algorithm's drafts."""

    format: Literal["published", "native"] = Field(description="published: it reads the folder as it is")
    serve: str = Field(description="the command that serves; $checkpoint, $verifier and $tokens are filled in")
    read: list[str] = Field(description="top-level keys of the published config that have an effect")
    layer_keys: list[str] = Field(
        default=[], description="keys that transformer_layer_config must hold; a|b is one of the two"
    )
    explicit: list[str] = Field(
        default=[], description="top-level keys that must be written: defaults differ by reader"
    )
    allowed: list[Allowed] = []
    layer_ids: str | None = Field(default=None, description="key that lists the verifier layers a draft reads")
    count_of_layers: list[CountOfLayers] = []
    same_width: bool = Field(default=False, description="the draft must be as wide as the verifier")
    extends_context: bool = Field(default=False, description="a short max_position_embeddings is raised by itself")


class EngineTable(Strict):
    """One version of an engine."""

    engine: str
    version: str
    drafts: dict[str, DraftTable] = Field(description="by speculators_model_type; no other type can be served")
    descriptive: list[str] = Field(description="top-level keys that describe and have no effect anywhere")
    inert_proposal_values: dict[str, Any] = Field(
        description="proposal keys that the engine does not read, each with the value at which that changes nothing"
    )
    cpu_head_dims: list[int] = Field(description="head dimensions that the engine's CPU attention has")
    verifiers_without_layer_states: list[str] = Field(
        description="architectures that the engine serves without giving out states of single layers"
    )

    @classmethod
    def read(cls, engine: str, version: str) -> "EngineTable":
        """The table of one engine version.

        Args:
            engine: as in `AlgorithmSettings.engines`.
            version: a version that there is a table for.

        Raises:
            ValueError: there is none; the message names those that there are.
        """
        folder = files("speculators.export") / "engines"
        known = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
        if f"{engine}-{version}" not in known:
            raise ValueError(
                f"export.engine_version={version}: there is no table of {engine} {version}; "
                f"there are {', '.join(known)}"
            )
        return cls.model_validate(yaml.safe_load((folder / f"{engine}-{version}.yaml").read_text(encoding="utf-8")))

    def serve_command(self, model_type: str, checkpoint: str, verifier: str, tokens: int) -> str:
        """The command line that serves a draft.

        Args:
            model_type: the draft's `speculators_model_type`.
            checkpoint: the published folder.
            verifier: folder or hub id.
            tokens: tokens drafted a pass.
        """
        draft = self.drafts[model_type]
        # A native draft's folder stands inside quoted JSON already.
        folder = quote(checkpoint) if draft.format == "published" else checkpoint
        return Template(draft.serve).substitute(checkpoint=folder, verifier=quote(verifier), tokens=tokens)
