"""Strategies for broken files: documents with a few values changed, and texts that are cut or have bytes changed."""

import copy
import json
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Cases of each reader; `make fuzz` takes 10,000.
CASES = int(os.environ.get("SPECULATORS_FUZZ", "300"))


def cases(share: float = 1.0) -> settings:
    """Hypothesis' settings; `share` of the cases are tried, for a reader that takes long."""
    return settings(
        max_examples=max(1, round(CASES * share)),
        deadline=None,
        derandomize="SPECULATORS_FUZZ" not in os.environ,  # the quick tests try the same cases every time
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


ODD = st.sampled_from(
    [
        "\x1b[2J\x07",
        "\ud800",
        "é" * 9,
        "x" * 5000,
        "../../etc",
        "a\0b",
        "",
        2**70,
        -1,
        10**6,
        10**12,
        nested(60),
        {"": {}},
    ]
).map(copy.deepcopy)  # a case changes what it has drawn
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | ODD,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("role"), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """A document of dicts and lists in which one to three places have another value, are missing or are new."""
    tree = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        at, holder, key = tree, None, None
        while isinstance(at, (dict, list)) and at and (holder is None or draw(st.booleans())):
            key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            holder, at = at, at[key]
        if holder is None:
            return draw(VALUES)
        match draw(st.sampled_from(("value", "value", "gone", "new"))):
            case "value":
                holder[key] = draw(VALUES)
            case "gone":
                del holder[key]
            case _ if isinstance(holder, dict):
                holder[draw(st.text(max_size=6))] = draw(VALUES)
            case _:
                holder.append(draw(VALUES))
    return tree


@st.composite
def spoilt(draw: st.DrawFn, text: bytes) -> bytes:
    """A text that is cut, or has a few bytes changed or put in."""
    at = draw(st.integers(0, len(text)))
    if draw(st.booleans()):
        return text[:at]
    return text[:at] + draw(st.binary(max_size=4)) + text[at + draw(st.integers(0, 3)) :]


def documents(document: Any) -> st.SearchStrategy[bytes]:
    """JSON texts near a document's."""
    return changed(document).map(lambda tree: json.dumps(tree).encode()) | spoilt(json.dumps(document).encode())
