"""Pydantic models that build the right subclass from a discriminator field."""

import sys
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from speculators.utils.registry import ClassRegistryMixin


class ReloadableBaseModel(BaseModel):
    """A model whose schema can be built anew after classes that it refers to were registered."""

    @classmethod
    def reload_schema(cls) -> None:
        """Build the schema anew."""
        # transformers annotates its configs with torch.dtype and imports torch for type checkers only. Whoever has such
        # a config in a field has imported torch long before, and whoever has not need not pay for it.
        namespace = {"torch": sys.modules["torch"]} if "torch" in sys.modules else None
        cls.model_rebuild(force=True, _types_namespace=namespace)


class PydanticClassRegistryMixin(ReloadableBaseModel, ABC, ClassRegistryMixin):
    """Base of a family of models: validating as the base builds the subclass that the discriminator field names.

    A family's base defines `__pydantic_schema_base_type__` and names the field that tells its members apart
    (`schema_discriminator`). It may stand in a field, a list or a dict. What is registered after a schema was built is
    known to it once it is reloaded. A class without `__pydantic_schema_base_type__` cannot be instantiated (TypeError).
    """

    schema_discriminator: ClassVar[str] = "model_type"
    registry: ClassVar[dict[str, type[BaseModel]] | None] = None

    @classmethod
    def register_decorator(cls, clazz: type[BaseModel], name: str | None = None) -> type[BaseModel]:
        """Enter a model class in this registry.

        Args:
            clazz: the class.
            name: the key, which is the discriminator's value; None takes the class's own name.

        Raises:
            TypeError: the class is no pydantic model.
            ValueError: the name is no string, or taken.
        """
        if not issubclass(clazz, BaseModel):
            raise TypeError(f"Cannot register {clazz.__name__} as it is not a subclass of Pydantic BaseModel")
        return super().register_decorator(clazz, name=name)

    @classmethod
    @abstractmethod
    def __pydantic_schema_base_type__(cls) -> type[Any]:
        """The family's base class, whose schema is the union of the registered members.

        Pydantic asks while the base itself is being made, when its name is not bound yet: an implementation returns
        `cls` for the base, which has `PydanticClassRegistryMixin` among its `__bases__`, and the base by name otherwise.
        """

    @classmethod
    def __pydantic_generate_base_schema__(cls, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The base's schema as long as nothing is registered: anything goes."""
        return core_schema.any_schema()

    @classmethod
    def __get_pydantic_core_schema__(cls, source_type: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if source_type != cls.__pydantic_schema_base_type__():
            return handler(cls)
        if not cls.registry:
            return cls.__pydantic_generate_base_schema__(handler)
        members = {name: handler(member) for name, member in cls.registry.items()}
        return core_schema.tagged_union_schema(members, discriminator=cls.schema_discriminator)
