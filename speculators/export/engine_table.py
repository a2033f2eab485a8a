"""What one version of an engine reads of a draft's checkpoint. Torch-free.

Of any draft in `engines/<engine>-<version>.yaml`, of one algorithm's in a file of that name in the algorithm's folder.
"""

from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from shlex import quote
from string import Template
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from speculators.format.finding import Level
from speculators.utils.discovery import packages
from speculators.utils.strict import Strict


class Allowed(Strict):
    """The values of one key that an engine can serve."""

    key: str = Field(description="dotted path in the config")
    values: list[Any] = Field(description="null also stands for a key that is missing")
    why: str = Field(description="what happens with any other value, and the remedy")
    level: Level = "refused"


class Assumed(Strict):
    """What an engine takes where a key is missing or null."""

    key: str = Field(description="dotted path in the published config")
    value: Any = None
    like: str | None = Field(
        default=None, description="instead of `value`: another dotted path; also `verifier.*`, its facts, and `tokens`"
    )
    always: bool = Field(default=False, description="whatever the config says")
    differs: Level | None = Field(
        default=None, description="level of a missing key of which readers of the format take something else"
    )
    model_type: str | None = Field(default=None, description="kind of decoder layer that this is true of; null is any")
    also: str | None = Field(default=None, description="another key that says the same")


class LayerIds(Strict):
    """How an engine learns which of the verifier's layers a draft reads."""

    key: str = Field(description="top-level key that lists them")
    assumed: list[Annotated[tuple[float, int], Field(strict=False)]] = Field(
        description="the layers that it takes where there is no list: (part, offset) is part * layers + offset"
    )
    count_key: str = Field(
        description="dotted path of the number of layers, which some classes do not count themselves"
    )
    counts: dict[str, int | None] = Field(
        description="by kind of decoder layer, the number where `count_key` is missing; null counts the list"
    )


class TensorRules(Strict):
    """What happens to tensors that are not as the config makes them, patterns being those of file names."""

    missing: Level
    unnoticed: list[str] = Field(default=[], description="those of which nobody notices that they are missing")
    shape: Level = "refused"
    cut: dict[str, int] = Field(
        default={}, description="modules whose larger tensor is cut to size without a word, and the dimension"
    )
    kind: Level | None = Field(default=None, description="null converts the dtype")
    unknown: Level
    dropped: list[str] = Field(default=[], description="unknown ones that are dropped without a word")
    skipped: list[str] = Field(default=[], description="those that it never looks at")

    def lacks(self, name: str) -> Level:
        """The level of a tensor that is missing."""
        return "wrong" if _matches(name, self.unnoticed) else self.missing

    def has_no_use_for(self, name: str) -> Level:
        """The level of a tensor that is not the draft's."""
        return "wrong" if _matches(name, self.dropped) else self.unknown

    def misfits(self, name: str, shape: tuple[int, ...], right: tuple[int, ...]) -> Level:
        """The level of a tensor of the wrong shape."""
        dim = self.cut.get(name.split(".")[-2] if "." in name else name)
        if dim is None or len(shape) != len(right) or dim >= len(shape):
            return self.shape
        others = all(a == b for i, (a, b) in enumerate(zip(shape, right, strict=True)) if i != dim)
        return "wrong" if others and shape[dim] > right[dim] else self.shape

    def skips(self, name: str) -> bool:
        """Whether it never looks at a tensor."""
        return _matches(name, self.skipped)


class DraftTable(Strict):
    """How an engine treats one algorithm's drafts."""

    format: Literal["published", "native"] = Field(description="published: it reads the folder as it is")
    serve: str = Field(description="the command that serves; $checkpoint, $verifier and $tokens are filled in")
    read: list[str] = Field(description="top-level keys of the published config that have an effect")
    required: list[str] = Field(default=[], description="keys that it takes no default for")
    assumed: list[Assumed] = []
    allowed: list[Allowed] = []
    stops_at: list[str] = Field(default=[], description="as the engine's, of keys that only this algorithm has")
    misreads: list[str] = Field(default=[], description="as the engine's, of keys that only this algorithm has")
    native: list[Allowed] = Field(default=[], description="of the engine's own config.json")
    native_repeats: str | None = Field(
        default=None,
        description="key of the published config whose decoder layers the engine's own config.json repeats",
    )
    layer_ids: LayerIds | None = Field(default=None, description="null reads no layer but the last")
    same_width: bool = Field(default=False, description="the draft must be as wide as the verifier")
    one_attention: bool = Field(default=False, description="its layers must all slide, or none")
    extends_context: bool = Field(default=False, description="a short max_position_embeddings is raised by itself")
    tensors: TensorRules


class EngineTable(Strict):
    """One version of an engine."""

    engine: str
    version: str
    drafts: dict[str, DraftTable] = Field(
        description="by speculators_model_type; no other can be served by this version"
    )
    stops_at: list[str] = Field(description="keys at which it stops where they break the format; * ends a pattern")
    misreads: list[str] = Field(description="keys at which it then goes on, and computes something else")
    descriptive: list[str] = Field(description="top-level keys that describe and have no effect anywhere")
    inert_proposal_values: dict[str, Any] = Field(
        description="proposal keys that the engine does not read, each with the value at which that changes nothing"
    )
    cpu_head_dims: list[int] = Field(description="head dimensions that the engine's CPU attention has")
    verifiers_without_layer_states: list[str] = Field(
        description="architectures that the engine serves without giving out states of single layers"
    )

    @classmethod
    @cache  # every trial of a sweep asks
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
        file = f"{engine}-{version}.yaml"
        drafts = {name: files(package) / file for name, package in packages().items()}
        read = {name: _load(own) for name, own in drafts.items() if own.is_file()}
        return cls.model_validate(_load(folder / file) | {"drafts": read})

    @property
    def name(self) -> str:
        """Engine and version, for people."""
        return f"{self.engine} {self.version}"

    def minds(self, key: str, draft: DraftTable | None) -> Level:
        """The level of a key that breaks the format, in a draft of a type that it serves or does not."""
        if _starts(key, self.stops_at) or (draft and _starts(key, draft.stops_at)):
            return "refused"
        return "wrong" if _starts(key, self.misreads) or (draft and _starts(key, draft.misreads)) else "invalid"

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


def _load(file: Traversable) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _starts(key: str, patterns: list[str]) -> bool:
    # No file name patterns: keys have brackets.
    return any(key.startswith(p[:-1]) if p.endswith("*") else key == p for p in patterns)
