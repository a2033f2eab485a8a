"""Valid runs, each with one slip: it is refused with a message, or the run is exactly what was typed."""

import json
import random
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import annotated_types
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from speculators.composition.compose import compose
from speculators.execution.again import load_again
from speculators.runfolder.run_yaml import write_pin
from speculators.settings.run_config import RunConfig
from speculators.utils.dotted import flat
from speculators.utils.messages import WrongInput
from speculators.utils.yaml_lines import dump
from speculators.verifier.facts import VerifierFacts

BASES = (
    ("algorithm=eagle3",),
    ("algorithm=eagle3", "algorithm.draft_vocab_size=1024", "algorithm.eagle_aux_hidden_state_layer_ids=[1,3]"),
    ("algorithm=eagle", "optimizer=adamw", "recipe=quick", "launch.timeout=3600"),
    ("algorithm=medusa", "schedule=linear", "data=jsonl", "data.path=chat.jsonl", "trainer.eval_every=10"),
    ("algorithm=eagle3", "data=hub", "data.name=some/data", "launch=inline", "tracker=none", "trainer.max_steps=7"),
    ("algorithm=medusa", "algorithm.original_lm_head=true", "algorithm.truncated_vocab_size=2048", "export=none"),
)
REFUSED = ("renamed", "bound")
HERE = VerifierFacts.read("pkg://speculators.assets/tiny")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a verifier is called, it is the embedded one: no test asks the Hub."""
    monkeypatch.setattr(
        VerifierFacts, "read", lambda name, revision=None: HERE.model_copy(update={"name_or_path": name})
    )


@cache
def base(overrides: tuple[str, ...]) -> RunConfig:
    """An unharmed run."""
    return compose(overrides)


def values(run: RunConfig) -> dict[str, Any]:
    """What was chosen; the `speculator` node follows from it."""
    return flat(run.model_dump(mode="json", exclude={"speculator"}))


def crossing(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys of a run with a bound, each with a value on the wrong side."""
    for name, field in type(model).model_fields.items():
        value = dict(model)[name]
        if isinstance(value, BaseModel):
            yield from crossing(value, f"{prefix}{name}.")
            continue
        for bound in bounds(field):
            step = 1 if isinstance(value, int) or value is None else 0.25
            match bound:
                case annotated_types.Ge(limit):
                    yield f"{prefix}{name}", limit - step
                case annotated_types.Le(limit):
                    yield f"{prefix}{name}", limit + step
                case annotated_types.Gt(limit) | annotated_types.Lt(limit):
                    yield f"{prefix}{name}", limit
                case annotated_types.MinLen():
                    yield f"{prefix}{name}", ""


def bounds(field: FieldInfo) -> list[Any]:
    """Of the value itself, also where it may be null; those of a list's items are no scalar's."""
    inner = [m for arm in get_args(field.annotation) for m in getattr(arm, "__metadata__", ())]
    inner = [m for i in inner for m in (i.metadata if isinstance(i, FieldInfo) else [i])]
    return [*field.metadata, *([] if str(field.annotation).startswith("tuple") else inner)]


def slip(word: str, taken: set[str], rng: random.Random) -> str:
    """A word with a letter too many, too few, or wrong."""
    while True:
        i, letter = rng.randrange(len(word)), rng.choice(string.ascii_lowercase)
        wrong = rng.choice((word[:i] + letter + word[i:], word[:i] + word[i + 1 :], word[:i] + letter + word[i + 1 :]))
        if wrong and wrong not in taken:
            return wrong


def retyped(value: Any, rng: random.Random) -> Any:
    """A value of another type, as near to the old one as can be."""
    match value:
        case bool():
            return rng.choice((str(value).lower(), int(value), float(value), None, [value]))
        case int() | float():
            other = float(value) if isinstance(value, int) else int(value)
            return rng.choice((str(value), other, bool(value), None, [value], {"value": value}))
        case str():
            return rng.choice((3, 1.5, True, None, [value], {"value": value}))
        case list():
            return rng.choice(
                (
                    str(value),
                    value[0] if value else 0,
                    {str(i): v for i, v in enumerate(value)},
                    [str(v) for v in value],
                )
            )
        case _:
            return rng.choice(("null", 3, 2.5, True, [1, 2], {"value": 1}, "1"))


# A mapping without a schema: any key in it is a setting.
FREE = "data.chat_template_kwargs"


def mutated(run: RunConfig, kind: str, rng: random.Random) -> tuple[dict[str, Any], str | None]:
    """Keys with their new values, and the key that is taken away."""
    were = values(run)
    key = rng.choice([k for k in were if k != FREE])
    match kind:
        case "renamed":
            prefix, dot, last = key.rpartition(".")
            siblings = {k.removeprefix(f"{prefix}{dot}").partition(".")[0] for k in were if k.startswith(prefix)}
            return {f"{prefix}{dot}{slip(last, siblings, rng)}": were[key]}, key
        case "type":
            return {key: retyped(were[key], rng)}, None
        case "bound":
            return dict([rng.choice(list(crossing(run)))]), None
        case _:
            # Most pairs are of two types; half the time two of one type are taken.
            alike = [k for k in were if k != key and (type(were[k]) is type(were[key]) or rng.random() < 0.1)]
            other = rng.choice(alike or [k for k in were if k != key])
            return {key: were[other], other: were[key]}, None


def through_hydra(overrides: tuple[str, ...], changes: dict[str, Any], gone: str | None, folder: Path) -> RunConfig:
    """The mutation as it would be typed."""
    typed = [f"~{gone}"] if gone else []
    typed += [f"{'+' if gone else ''}{key}={hydra_value(value)}" for key, value in changes.items()]
    return compose([*overrides, *typed])


def through_a_pin(overrides: tuple[str, ...], changes: dict[str, Any], gone: str | None, folder: Path) -> RunConfig:
    """The mutation as an edit of run.yaml."""
    file = write_pin(base(overrides), folder)
    pin = yaml.safe_load(file.read_text())
    for key, value in [(gone, ...), *changes.items()] if gone else changes.items():
        *path, last = str(key).split(".")
        node = pin["run"]
        for part in path:
            node = node[part]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    file.write_text(dump(pin))
    return load_again(folder)[0].run


def hydra_value(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{hydra_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    return json.dumps(value)


def same(typed: Any, got: Any) -> bool:
    """Whether a value is the typed one; a whole number is a float as well."""
    return typed == got and (type(typed) is type(got) or type(typed) is int and type(got) is float)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_a_slip_is_refused_or_means_what_was_typed(seed: int, tmp_path: Path) -> None:
    """No traceback, and no value but the typed ones changes; a misspelt key or a crossed bound is always refused."""
    rng = random.Random(seed)
    overrides = BASES[seed % len(BASES)]
    kind = ("renamed", "type", "bound", "swap")[rng.randrange(4)]
    before = base(overrides)
    changes, gone = mutated(before, kind, rng)
    way = through_a_pin if rng.random() < 0.4 else through_hydra
    try:
        run = way(overrides, changes, gone, tmp_path)
    except WrongInput as error:
        assert all("Traceback" not in m and "pydantic" not in m for m in error.messages)
        # A swapped or null value may break a rule that another key's message names.
        named = [*changes, gone] if gone else list(changes)
        assert kind not in REFUSED or any(key in str(error) for key in named), error.messages
        return
    assert kind not in REFUSED, f"{way.__name__}: {changes} instead of {gone or 'a value in bounds'} was taken"
    were, now = values(before), values(run)
    assert were.keys() == now.keys()
    assert all(same(value, now[key]) for key, value in changes.items()), (changes, {k: now[k] for k in changes})
    assert {k: v for k, v in now.items() if k not in changes} == {k: v for k, v in were.items() if k not in changes}


def test_the_oracle_knows_the_bounds() -> None:
    """Bounds of a plain number, one that may be null, one of a shared alias, and a string's."""
    known = dict(crossing(base(BASES[3])))
    assert known["seed"] in (-1, 2**32) and known["data.max_conversations"] == 0 and known["trainer.epochs"] == 0
    assert known["data.path"] == "" and known["optimizer.lr"] in (0, 1) and known["algorithm.slot_decay"] in (0, 1.25)
