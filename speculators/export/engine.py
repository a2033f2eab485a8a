"""Base classes of the rules of one engine version; `engines/` and `models/NAME/` implement them. Torch-free."""

import shlex
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from speculators.format.finding import Finding, Level
from speculators.proposals import TokenProposalConfig
from speculators.utils.discovery import import_part
from speculators.utils.registry import ClassRegistryMixin
from speculators.verifier.facts import VerifierFacts

Config = Mapping[str, Any]


@dataclass(frozen=True)
class TensorRules:
    """What an engine does with tensors that differ from those that the config describes.

    Attributes:
        missing: level of a tensor that is not in the file.
        unknown: level of one that is not the draft's.
        shape: level of a wrong shape.
        dtype: level of a wrong dtype; None converts it.
        unnoticed: patterns of names whose absence the engine does not notice.
        dropped: patterns of unknown names that it drops without a message.
        skipped: patterns of names that it does not look at.
        cut: dimension by module, of tensors that are cut to size without a message where they are larger.
    """

    missing: Level
    unknown: Level
    shape: Level = "refused"
    dtype: Level | None = None
    unnoticed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    cut: Mapping[str, int] = field(default_factory=dict)

    def of_missing(self, name: str) -> Level:
        """The level of a tensor that is not in the file."""
        return "wrong" if _matches(name, self.unnoticed) else self.missing

    def of_unknown(self, name: str) -> Level:
        """The level of a tensor that is not the draft's."""
        return "wrong" if _matches(name, self.dropped) else self.unknown

    def of_shape(self, name: str, shape: tuple[int, ...], right: tuple[int, ...]) -> Level:
        """The level of a tensor whose shape is not the right one."""
        dim = self.cut.get(name.split(".")[-2] if "." in name else name)
        if dim is None or len(shape) != len(right) or dim >= len(shape):
            return self.shape
        others = all(a == b for i, (a, b) in enumerate(zip(shape, right, strict=True)) if i != dim)
        return "wrong" if others and shape[dim] > right[dim] else self.shape

    def skips(self, name: str) -> bool:
        """Whether the engine does not look at a tensor."""
        return _matches(name, self.skipped)


@dataclass(frozen=True)
class Serving:
    """How a draft is given to an engine.

    Attributes:
        model: folder or hub id that the engine is started with.
        options: its speculative configuration, a JSON object; empty where the model's own config.json says all.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)


class EngineDraft(ClassRegistryMixin):
    """How one engine version reads and serves the drafts of one algorithm; registered under the algorithm's name."""

    registry: ClassVar[dict[str, type["EngineDraft"]] | None] = None

    # Why the engine cannot serve any draft of this algorithm; None where it can.
    refusal: ClassVar[str | None] = None
    # Whether it reads CHECKPOINT/<engine>/, in its own format, instead of the published folder itself.
    native: ClassVar[bool] = False
    # Top-level keys of the published config that have an effect in the engine.
    reads: ClassVar[Collection[str]] = ()
    # As those of `Engine`, of keys that only this algorithm has.
    stops_at: ClassVar[tuple[str, ...]] = ()
    misreads: ClassVar[tuple[str, ...]] = ()
    # Whether the draft says how confident it is, so that the engine can verify less of it.
    confident: ClassVar[bool] = False
    tensors: ClassVar[TensorRules]

    def as_read(self, config: Config, facts: VerifierFacts | None) -> dict[str, Any]:
        """A published config with the values that the engine takes for keys that are missing.

        Args:
            config: of any types.
            facts: the verifier's; None leaves out what depends on them.
        """
        return dict(config)

    def problems(self, config: Config, read: Config, facts: VerifierFacts | None) -> Iterator[Finding]:
        """What keeps the engine from serving a config as it was trained, beside what breaks the format.

        Args:
            config: the published config, of any types.
            read: what `as_read` makes of it.
            facts: the verifier's; None leaves out what depends on them.
        """
        return iter(())

    def native_problems(self, native: Config, config: Config) -> Iterator[Finding]:
        """What is wrong with the config.json of the engine's own format, beside differences from the published config.

        Args:
            native: its contents, of any types.
            config: the published config, of any types.
        """
        return iter(())

    def unread_tensors(self, config: Config) -> Collection[str]:
        """Names of tensors that the config describes and the engine leaves out on purpose, such as surplus heads."""
        return ()

    def serving(self, config: Config, checkpoint: str, verifier: str, tokens: int) -> Serving:
        """How a published folder is served.

        Args:
            config: its published config, of any types.
            checkpoint: the folder.
            verifier: folder or hub id.
            tokens: speculative tokens of a round.
        """
        return Serving(checkpoint)

    def beside(self, config: Config, checkpoint: str, verifier: str, tokens: int) -> Serving:
        """How a published folder is served if verifier and draft are named apart; arguments as of `serving`."""
        return self.serving(config, checkpoint, verifier, tokens)


class Engine(ClassRegistryMixin, ABC):
    """One version of an engine; registered under its name and version, such as `vllm 0.32.0`.

    `engines/<name>_<version>.py` has it, with `_` for the version's `.`; a module of that name in an algorithm's folder
    registers what it does with that algorithm's drafts.
    """

    registry: ClassVar[dict[str, type["Engine"]] | None] = None

    # As in `AlgorithmSettings.engines` and in `export.engine_version`.
    name: ClassVar[str]
    version: ClassVar[str]
    # Base of the classes that say what it does with each algorithm's drafts; their registry.
    drafts: ClassVar[type[EngineDraft]]
    # Keys at which it stops where they break the published format, and keys at which it goes on and computes something
    # else; `*` ends a pattern.
    stops_at: ClassVar[tuple[str, ...]]
    misreads: ClassVar[tuple[str, ...]]
    # Top-level keys that have no effect anywhere.
    descriptive: ClassVar[Collection[str]]

    @abstractmethod
    def proposal_problems(self, config: Config) -> Iterator[Finding]:
        """What it does with the proposal methods of a published config, beside what breaks the format.

        Args:
            config: of any types.
        """

    @abstractmethod
    def command(self, serving: Serving) -> list[str]:
        """The words of the command that serves a draft."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def module(self) -> str:
        """Name of the modules about this version."""
        return f"{self.name}_{self.version.replace('.', '_')}"

    def draft(self, algorithm: str) -> EngineDraft | None:
        """What it does with an algorithm's drafts; None where it does not know them."""
        import_part(self.module, optional=True)
        found = (self.drafts.registry or {}).get(algorithm)
        return found() if found else None

    def served(self) -> list[str]:
        """Algorithms that it can serve, sorted."""
        import_part(self.module, optional=True)
        return sorted(name for name, draft in (self.drafts.registry or {}).items() if draft.refusal is None)

    def level(self, key: str, draft: EngineDraft | None) -> Level:
        """The level of a key that breaks the published format.

        Args:
            key: dotted path.
            draft: of the algorithm; None where the engine does not know it.
        """
        own = draft or EngineDraft
        if _starts(key, (*self.stops_at, *own.stops_at)):
            return "refused"
        return "wrong" if _starts(key, (*self.misreads, *own.misreads)) else "invalid"

    def serve_command(
        self,
        config: Config,
        checkpoint: str,
        verifier: str,
        proposal: Config,
        published: bool = True,
        serving_options: Mapping[str, Any] = {},
        beside: bool = False,
    ) -> str:
        """The command that serves a draft, as one line for a POSIX shell.

        Args:
            config: the published config, of an algorithm that it serves.
            checkpoint: the published folder.
            verifier: folder or hub id.
            proposal: how it is to draft.
            published: whether that is the first of the published `proposal_methods`, which the engine reads.
            serving_options: as of `ExportSettings.serving_options`.
            beside: whether verifier and draft are named apart.

        Raises:
            ValueError: it does not serve this algorithm.
        """
        algorithm = str(config.get("speculators_model_type"))
        draft = self.draft(algorithm)
        if draft is None:
            raise ValueError(f"{self} does not serve {algorithm} drafts; it serves {', '.join(self.served())}")
        method = TokenProposalConfig.model_validate(proposal)
        serving = (draft.beside if beside else draft.serving)(config, checkpoint, verifier, method.nodes)
        options = {} if published else {"num_speculative_tokens": method.nodes}
        options = {**options, **serving.options, **method.serving_options(), **serving_options}
        return shlex.join(self.command(replace(serving, options=options)))


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _starts(key: str, patterns: Collection[str]) -> bool:
    # No file name patterns: keys have brackets.
    return any(key.startswith(p[:-1]) if p.endswith("*") else key == p for p in patterns)
