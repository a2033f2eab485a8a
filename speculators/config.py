"""The published config, a checkpoint's config.json: the draft model, its verifier, and its proposal methods.

Its format is that of the upstream project `speculators` in release FORMAT_VERSION.
"""

import os
from collections.abc import Iterator
from importlib.metadata import version
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from transformers import AutoConfig, PretrainedConfig

from speculators.format.usage import FORMAT_VERSION, SpeculatorsConfig, VerifierConfig
from speculators.proposals import TokenProposalConfig
from speculators.utils.discovery import import_part
from speculators.utils.pydantic_utils import PydanticClassRegistryMixin

__all__ = ["FORMAT_VERSION", "LayerConfig", "SpeculatorModelConfig", "SpeculatorsConfig", "VerifierConfig"]
__all__ += ["read_layer_config", "reload_schemas"]


# A decoder layer's config inside a published one; engines build the draft's layers from it.
LayerConfig = Annotated[PretrainedConfig, PlainSerializer(lambda config: config.to_diff_dict(), return_type=dict)]


def read_layer_config(fallback: type[PretrainedConfig]) -> BeforeValidator:
    """A validator that builds a LayerConfig field from a dict.

    Args:
        fallback: the config class of a dict without `model_type`.
    """

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return (type(AutoConfig.for_model(value["model_type"])) if "model_type" in value else fallback)(**value)

    return BeforeValidator(read)


class SpeculatorModelConfig(PydanticClassRegistryMixin, PretrainedConfig):
    """Base of every draft's config, pydantic's and transformers' at once; `speculators_model_type` names the subclass.

    Keys that no field declares are kept, as in every config of transformers; `speculators.format.strict` reports them.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow")
    schema_discriminator: ClassVar[str] = "speculators_model_type"

    # transformers' class attributes, declared again as ClassVar: pydantic would read their annotations as fields.
    # None of them is written to config.json; engines refuse a draft with a `model_type` there.
    model_type: ClassVar[str] = "speculator_model"
    base_config_key: ClassVar[str] = ""
    sub_configs: ClassVar[dict[str, type[PretrainedConfig]]] = {}
    is_composition: ClassVar[bool] = False
    attribute_map: ClassVar[dict[str, str]] = {}
    base_model_tp_plan: ClassVar[dict[str, Any] | None] = None
    base_model_pp_plan: ClassVar[dict[str, Any] | None] = None
    base_model_ep_plan: ClassVar[dict[str, Any] | None] = None
    has_no_defaults_at_init: ClassVar[bool] = False
    keys_to_ignore_at_inference: ClassVar[list[str]] = []
    # None, where upstream has "": with a string, save_pretrained would write Python files and an `auto_map` to the folder.
    _auto_class: ClassVar[str | None] = None

    speculators_model_type: str = Field(default="", description="the algorithm")
    speculators_version: str = Field(default=FORMAT_VERSION, description="release of the format")
    speculators_config: SpeculatorsConfig = Field(  # pyright: ignore[reportAssignmentType]
        default=None,  # transformers makes an empty instance to compare with, so the field cannot be required
        description="proposal methods and verifier",
    )

    def __init__(self, **kwargs: Any) -> None:
        PydanticClassRegistryMixin.__init__(self, **kwargs)
        validated = {name: self.__dict__[name] for name in type(self).model_fields}
        others = {name: value for name, value in kwargs.items() if name not in type(self).__class_vars__}
        PretrainedConfig.__init__(self, **(others | validated))
        self.transformers_version = version("transformers")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # transformers turns every subclass into a dataclass, whose __init__ bypasses pydantic.
        if "__init__" in cls.__dict__:
            cls.__init__ = SpeculatorModelConfig.__init__

    @classmethod
    def __pydantic_schema_base_type__(cls) -> type["SpeculatorModelConfig"]:
        return cls if PydanticClassRegistryMixin in cls.__bases__ else SpeculatorModelConfig

    def __iter__(self) -> Iterator[str]:  # pyright: ignore[reportIncompatibleMethodOverride]  pydantic yields pairs
        return PretrainedConfig.__iter__(self)

    def validate(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Do nothing: transformers calls this before saving, and pydantic has already validated the values."""

    @classmethod
    def register_decorator(cls, clazz: type[BaseModel], name: str | None = None) -> type[BaseModel]:
        """Register a config class under its algorithm's name.

        Args:
            clazz: the class.
            name: the value of `speculators_model_type`; None takes the class's own name.
        """
        clazz = super().register_decorator(clazz, name=name)
        # An algorithm's config module that is imported first imports this one, and registers after it has finished.
        if cls.registry_populated:
            cls.reload_schema()
        return clazz

    @classmethod
    def reload_schema(cls) -> None:
        """Rebuild the schemas of the base and of every registered subclass."""
        for config in (cls, *(cls.registry or {}).values()):
            config.model_rebuild(force=True, _types_namespace={"torch": torch})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "SpeculatorModelConfig":
        """Build the subclass that `speculators_model_type` names.

        Args:
            config_dict: contents of a config.json.
            kwargs: values that override the dict's.

        Raises:
            ValueError: there is no `speculators_model_type`.
            pydantic.ValidationError: no class is registered under it, or a value is invalid.
        """
        values = config_dict | kwargs
        if "speculators_model_type" not in values:
            raise ValueError(
                "The config dictionary must contain the 'speculators_model_type' field "
                "for loading a SpeculatorModelConfig in the Speculators library."
            )
        return cls.model_validate(values)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]  the seed's signature
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        cache_dir: str | os.PathLike | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        **kwargs: Any,
    ) -> "SpeculatorModelConfig":
        """Read a config.json from a folder or the Hub and build the subclass for its `speculators_model_type`.

        Args:
            pretrained_model_name_or_path: hub id, folder or file.
            cache_dir: where downloads are kept.
            force_download: download files even if they are cached.
            local_files_only: never download.
            token: for the Hub.
            revision: branch, tag or commit on the Hub.
            kwargs: values that override the file's.

        Raises:
            NotImplementedError: the file is not a speculator's config.
        """
        values, overrides = cls.get_config_dict(
            pretrained_model_name_or_path,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            revision=revision,
            **kwargs,
        )
        if "speculators_model_type" not in values:
            raise NotImplementedError("Loading a non-speculator model config is not supported yet.")
        return cls.from_dict(values, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """All values, transformers' own included."""
        values = super().to_dict() | self.model_dump()
        self.dict_dtype_to_str(values)
        # auto_map: a loaded config may refer to Python files of its folder, which a published draft does not contain.
        unwritten = type(self).__class_vars__ | {"model_config", "auto_map"}
        return {name: value for name, value in values.items() if name not in unwritten}

    def to_diff_dict(self) -> dict[str, Any]:
        """The contents of config.json: all fields, and transformers' values that differ from its defaults."""
        return super().to_diff_dict()


def reload_schemas() -> None:
    """Rebuild all schemas, so that they include classes registered since they were built."""
    TokenProposalConfig.reload_schema()
    SpeculatorsConfig.reload_schema()
    SpeculatorModelConfig.reload_schema()


import_part("config")
reload_schemas()
SpeculatorModelConfig.registry_populated = True
