"""Early check that a source of conversations is usable for training, before anything else is read."""

from collections import Counter

from speculators.data.conversations import read
from speculators.data.evaluation_data import KEY, evaluation_data
from speculators.data.mixture import conversations
from speculators.data.prepare import TOO_FEW, nothing, prompts_of
from speculators.data.rendering import rendered
from speculators.data.sources import Unreachable
from speculators.data.spool import prompt_key
from speculators.data.template import ChatTemplate
from speculators.data.unused import Unused
from speculators.settings.data import DataSettings
from speculators.settings.run_config import RunConfig

# Usable conversations that are checked: all of a small source, the beginning of a large one.
ENOUGH = 10_000


def check_run(run: RunConfig) -> Unreachable | None:
    """Check that a run can use its data, and the prompts of evaluation.data.

    Args:
        run: on a dry run, an unavailable tokenizer and a Hub that cannot be reached are no errors: the printed plan says so.

    Returns:
        On a dry run, why a data set of the Hub could not be checked.

    Raises:
        ValueError: it cannot; the message begins with the key to change.
    """
    template = None
    try:
        template = ChatTemplate.of(run.verifier, run.data)
    except ValueError:
        if not run.dry_run:
            raise
    try:
        check(run.data, template)
        if template is not None:
            evaluation_data(run, template, None)
        elif run.evaluation.data is not None:
            unused = Unused()
            if next(read(run.evaluation.data, KEY, unused, answered=False), None) is None:
                raise ValueError(nothing(unused, KEY))
    except Unreachable as error:
        if not run.dry_run:
            raise
        return error
    return None


def check(data: DataSettings, template: ChatTemplate | None) -> None:
    """Check that a source can be read, and that it has data to train on and to hold out.

    Args:
        data: the source.
        template: the verifier's; None skips the check that it can render the conversations.

    Raises:
        ValueError: it cannot be used; the message names what is wrong.
    """
    unused, keys, taught = Unused(), set[bytes](), template is None
    for number, conversation in enumerate(conversations(data, unused, not data.regenerate, [])):
        keys.add(prompt_key(conversation))
        if template is not None and not taught:
            if data.regenerate:
                taught = bool(prompts_of([conversation], template, data.max_length, unused))
            else:
                made = rendered([conversation], template, data.max_length, unused, Unused(), Counter())
                taught = next(made, None) is not None
        if number >= ENOUGH and taught and len(keys) > 1:
            return
    if not keys or not taught:
        raise ValueError(nothing(unused))
    if len(keys) < 2:
        raise ValueError(TOO_FEW)
