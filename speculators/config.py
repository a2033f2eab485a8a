"""The published config, a checkpoint's config.json: what was drafted for which verifier, and how it is served.

It is read and written as the upstream project `speculators` does in the release that FORMAT_VERSION names.
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


# A decoder layer's config inside a published one; engines build the draft's layers from what is written here.
LayerConfig = Annotated[PretrainedConfig, PlainSerializer(lambda config: config.to_diff_dict(), return_type=dict)]


def read_layer_config(fallback: type[PretrainedConfig]) -> BeforeValidator:
    """How a LayerConfig field reads a dict.

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

    # transformers' class attributes once more, as class variables of this class: pydantic would take its annotations
    # for fields. None of them is ever written to config.json; engines refuse a draft with a `model_type` there.
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
    # None, where upstream says "": with a string, save_pretrained would write Python and an `auto_map` into the folder.
    _auto_class: ClassVar[str | None] = None

    speculators_model_type: str = Field(default="", description="the algorithm whose model this configures")
    speculators_version: str = Field(default=FORMAT_VERSION, description="release of the format")
    speculators_config: SpeculatorsConfig = Field(  # pyright: ignore[reportAssignmentType]
        default=None,  # transformers makes an empty instance to compare with, so the field cannot be required
        description="how the draft is used",
    )

    def __init__(self, **kwargs: Any) -> None:
        PydanticClassRegistryMixin.__init__(self, **kwargs)
        validated = {name: self.__dict__[name] for name in type(self).model_fields}
        others = {name: value for name, value in kwargs.items() if name not in type(self).__class_vars__}
        PretrainedConfig.__init__(self, **(others | validated))
        self.transformers_version = version("transformers")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # transformers turns every subclass into a dataclass with an __init__ that knows nothing of pydantic.
        if "__init__" in cls.__dict__:
            cls.__init__ = SpeculatorModelConfig.__init__

    @classmethod
    def __pydantic_schema_base_type__(cls) -> type["SpeculatorModelConfig"]:
        return cls if PydanticClassRegistryMixin in cls.__bases__ else SpeculatorModelConfig

    def __iter__(self) -> Iterator[str]:  # pyright: ignore[reportIncompatibleMethodOverride]  pydantic yields pairs
        return PretrainedConfig.__iter__(self)

    def validate(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Nothing: transformers calls this before it saves, and pydantic has validated already."""

    @classmethod
    def register_decorator(cls, clazz: type[BaseModel], name: str | None = None) -> type[BaseModel]:
        """Enter a config class in this registry, under its algorithm's name.

        Args:
            clazz: the class.
            name: the value of `speculators_model_type`; None takes the class's own name.
        """
        clazz = super().register_decorator(clazz, name=name)
        # When one algorithm's config file is imported before this one, it registers after this one has ended.
        if cls.registry_populated:
            cls.reload_schema()
        return clazz

    @classmethod
    def reload_schema(cls) -> None:
        """Build the schemas of the base and of every registered subclass anew."""
        for config in (cls, *(cls.registry or {}).values()):
            config.model_rebuild(force=True, _types_namespace={"torch": torch})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "SpeculatorModelConfig":
        """Build the subclass that `speculators_model_type` names.

        Args:
            config_dict: contents of a config.json.
            kwargs: values that take the place of the dict's.

        Raises:
            ValueError: there is no `speculators_model_type`.
            pydantic.ValidationError: nothing is registered under it, or a value is wrong.
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
        """Read a config.json from a folder or the Hub and build the subclass that it names.

        Args:
            pretrained_model_name_or_path: hub id, folder or file.
            cache_dir: where downloads are kept.
            force_download: download even what is there.
            local_files_only: never download.
            token: for the Hub.
            revision: branch, tag or commit on the Hub.
            kwargs: values that take the place of the file's.

        Raises:
            NotImplementedError: the file is no speculator's.
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
        # auto_map: a config that was loaded may name Python that its folder brought along; ours bring none.
        unwritten = type(self).__class_vars__ | {"model_config", "auto_map"}
        return {name: value for name, value in values.items() if name not in unwritten}

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json holds: all fields, and those of transformers' values that are not its defaults."""
        return super().to_diff_dict()


def reload_schemas() -> None:
    """Make known what was registered since the schemas were built."""
    TokenProposalConfig.reload_schema()
    SpeculatorsConfig.reload_schema()
    SpeculatorModelConfig.reload_schema()


import_part("config")
reload_schemas()
SpeculatorModelConfig.registry_populated = True
