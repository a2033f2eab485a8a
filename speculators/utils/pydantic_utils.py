"""Pydantic models that build the right subclass from a discriminator field."""

import sys
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from speculators.utils.registry import ClassRegistryMixin


class ReloadableBaseModel(BaseModel):
    """A model whose schema can be rebuilt after classes that it refers to were registered."""

    @classmethod
    def reload_schema(cls) -> None:
        """Rebuild the schema."""
        # transformers annotates its configs with torch.dtype but imports torch for type checkers only. A model with such
        # a config in a field has imported torch already; other models do not need it.
        namespace = {"torch": sys.modules["torch"]} if "torch" in sys.modules else None
        cls.model_rebuild(force=True, _types_namespace=namespace)


class PydanticClassRegistryMixin(ReloadableBaseModel, ABC, ClassRegistryMixin):
    """Base of a family of models: validating as the base class builds the subclass that the discriminator field names.

    A family's base defines `__pydantic_schema_base_type__` and names the field that tells its members apart
    (`schema_discriminator`). The base can be the type of a field, or of a list's or dict's values. Classes
    registered after a schema was built are included once it is reloaded. A class without
    `__pydantic_schema_base_type__` cannot be instantiated (TypeError).
    """

    schema_discriminator: ClassVar[str] = "model_type"
    registry: ClassVar[dict[str, type[BaseModel]] | None] = None

    @classmethod
    def register_decorator(cls, clazz: type[BaseModel], name: str | None = None) -> type[BaseModel]:
        """Register a model class.

        Args:
            clazz: the class.
            name: the key, which is the discriminator's value; None takes the class's own name.

        Raises:
            TypeError: the class is not a pydantic model.
            ValueError: the name is not a string, or is taken.
        """
        if not issubclass(clazz, BaseModel):
            raise TypeError(f"Cannot register {clazz.__name__} as it is not a subclass of Pydantic BaseModel")
        return super().register_decorator(clazz, name=name)

    @classmethod
    @abstractmethod
    def __pydantic_schema_base_type__(cls) -> type[Any]:
        """The family's base class, whose schema is the union of the registered members.

        Pydantic also calls this while the base class is being created, before its name is bound: an implementation
        returns `cls` if `PydanticClassRegistryMixin` is in its `__bases__`, and otherwise the base by name.
        """

    @classmethod
    def __pydantic_generate_base_schema__(cls, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The base's schema while nothing is registered: accepts any value."""
        return core_schema.any_schema()

    @classmethod
    def __get_pydantic_core_schema__(cls, source_type: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if source_type != cls.__pydantic_schema_base_type__():
            return handler(cls)
        if not cls.registry:
            return cls.__pydantic_generate_base_schema__(handler)
        members = {name: handler(member) for name, member in cls.registry.items()}
        return core_schema.tagged_union_schema(members, discriminator=cls.schema_discriminator)
