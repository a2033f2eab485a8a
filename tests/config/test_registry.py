"""Registries, and families of models built from a discriminator."""

from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ValidationError

from speculators import (
    ClassRegistryMixin,
    PydanticClassRegistryMixin,
    ReloadableBaseModel,
    TokenProposalConfig,
    reload_schemas,
)
from speculators.proposals import GreedyTokenProposalConfig


def test_each_class_has_a_registry_of_its_own() -> None:
    class Shape(ClassRegistryMixin):
        pass

    class Colour(ClassRegistryMixin):
        pass

    @Shape.register()
    class Circle:
        pass

    @Shape.register("box")
    class Square:
        pass

    @Colour.register_decorator
    class Red:
        pass

    assert Shape.registry == {"Circle": Circle, "box": Square}
    assert Colour.registered_classes() == (Red,)
    assert ClassRegistryMixin.registry is None


def test_a_child_does_not_register_with_its_parent() -> None:
    class Parent(ClassRegistryMixin):
        pass

    class Child(Parent):
        pass

    Parent.register("text")(str)
    Child.register("number")(int)
    assert Parent.registry == {"text": str}
    assert Child.registry == {"number": int}


class Animal(PydanticClassRegistryMixin):
    schema_discriminator: ClassVar[str] = "kind"

    kind: str


@Animal.register("cat")
class Cat(Animal):
    kind: Literal["cat"] = "cat"
    lives: int = 9


@Animal.register("lion")
class Lion(Cat):
    kind: Literal["lion"] = "lion"  # pyright: ignore[reportIncompatibleVariableOverride]  another tag
    mane: bool = True


class Zoo(ReloadableBaseModel):
    favourite: Animal
    cages: list[Animal] = []
    by_name: dict[str, Animal] = {}
    perhaps: Animal | None = None


Animal.reload_schema()
Zoo.reload_schema()


def test_the_base_builds_the_named_class() -> None:
    assert Animal.model_validate({"kind": "lion", "mane": False}) == Lion(mane=False)
    assert type(Animal.model_validate({"kind": "cat"})) is Cat
    assert Lion.model_validate({"mane": False}) == Lion(mane=False)


def test_members_nest_anywhere_and_come_back() -> None:
    given = {
        "favourite": {"kind": "cat", "lives": 1},
        "cages": [{"kind": "lion"}, {"kind": "cat"}],
        "by_name": {"leo": {"kind": "lion", "mane": False}},
        "perhaps": {"kind": "cat"},
    }
    zoo = Zoo.model_validate(given)
    assert [type(a) for a in zoo.cages] == [Lion, Cat]
    assert type(zoo.by_name["leo"]) is Lion and type(zoo.perhaps) is Cat
    dump = zoo.model_dump()
    assert dump["by_name"] == {"leo": {"kind": "lion", "mane": False, "lives": 9}}
    assert Zoo.model_validate(dump) == zoo
    assert Zoo.model_validate_json(zoo.model_dump_json()) == zoo
    assert Zoo.model_validate({"favourite": Lion()}).favourite == Lion()


@pytest.mark.parametrize(
    ("value", "kind"),
    [({"kind": "dog"}, "union_tag_invalid"), ({}, "union_tag_not_found"), (3, "model_attributes_type")],
)
def test_what_names_no_member_is_refused(value: Any, kind: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Animal.model_validate(value)
    assert [e["type"] for e in caught.value.errors()] == [kind]


def test_a_family_without_members_takes_anything() -> None:
    class Alone(PydanticClassRegistryMixin):
        pass

    class Holder(BaseModel):
        alone: Alone

    assert Holder.model_validate({"alone": 3}).alone == 3


def test_a_base_may_name_itself() -> None:
    """As code written for upstream does, where that is required."""

    class Base(PydanticClassRegistryMixin):
        schema_discriminator: ClassVar[str] = "kind"
        kind: str

        @classmethod
        def __pydantic_schema_base_type__(cls) -> type[Any]:
            return cls if cls.__name__ == "Base" else Base

    @Base.register("member")
    class Member(Base):
        kind: Literal["member"] = "member"

    Base.reload_schema()
    assert type(Base.model_validate({"kind": "member"})) is Member


def test_a_proposal_of_the_users_own() -> None:
    given = {"proposal_type": "own_tree", "width": 3}
    with pytest.raises(ValidationError):
        TokenProposalConfig.model_validate(given)

    @TokenProposalConfig.register("own_tree")
    class OwnTree(TokenProposalConfig):
        proposal_type: Literal["own_tree"] = "own_tree"
        width: int

    try:
        reload_schemas()
        assert TokenProposalConfig.model_validate(given) == OwnTree(width=3)
        assert OwnTree in TokenProposalConfig.registered_classes()
    finally:
        assert TokenProposalConfig.registry is not None
        del TokenProposalConfig.registry["own_tree"]
        reload_schemas()


@pytest.mark.parametrize(
    "wrong",
    [{"speculative_tokens": 0}, {"verifier_accept_k": 0}, {"accept_tolerance": -0.1}, {"proposal_type": "tree"}],
)
def test_greedy_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GreedyTokenProposalConfig(**wrong)
