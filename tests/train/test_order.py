from collections import Counter

import pytest

from speculators.settings.training import TrainerSettings
from speculators.train.order import Order


def trainer(epochs=1, max_steps=None, batch_size=2, accumulation=1, per_step=None) -> TrainerSettings:
    return TrainerSettings(
        epochs=epochs, max_steps=max_steps, batch_size=batch_size, gradient_accumulation_steps=accumulation,
        max_grad_norm=1.0, log_every=1, eval_every=None, save_every=None, keep_last=1, keep_best=False, keep_best_prompts=2,
        init_from=None, sequences_per_step=per_step,
    )  # fmt: skip


def seen(order: Order, process: int = 0) -> list[int]:
    return [p.index for step in range(order.steps) for batch in order.of_step(step, process) for p in batch]


@pytest.mark.parametrize("batch_size,accumulation", [(1, 1), (2, 1), (2, 3), (16, 2)])
def test_every_sequence_is_seen_once_an_epoch(batch_size, accumulation):
    order = Order(7, 0, trainer(epochs=3, batch_size=batch_size, accumulation=accumulation))
    assert Counter(seen(order)) == dict.fromkeys(range(7), 3)
    assert Counter(seen(order)[:7]) == dict.fromkeys(range(7), 1)


def test_epochs_and_seeds_differ():
    order = seen(Order(30, 0, trainer(epochs=2)))
    assert order[:30] != order[30:] != seen(Order(30, 1, trainer()))


def test_micro_batches_do_not_change_what_a_step_sees():
    whole = Order(20, 3, trainer(batch_size=4))
    cut = Order(20, 3, trainer(batch_size=2, accumulation=2))
    for step in range(whole.steps):
        assert whole.of_step(step)[0] == sum(cut.of_step(step), [])


def test_max_steps_stops_early_and_never_adds():
    assert Order(10, 0, trainer(max_steps=2)).steps == 2
    assert Order(10, 0, trainer(max_steps=99)).steps == 5


def test_processes_share_a_step_evenly():
    order = Order(7, 0, trainer(epochs=2), processes=3)
    for step in range(order.steps):
        assert len({len(order.of_step(step, p)) for p in range(3)}) == 1
    together = Counter(i for p in range(3) for i in seen(order, p))
    assert all(together[i] >= 2 for i in range(7)) and together.total() == 15


@pytest.mark.parametrize("processes", [1, 2, 3, 6])
def test_steps_of_a_given_size_are_the_same_for_any_number_of_processes(processes):
    """The last one too, which the next epoch fills up; a process reads batch_size sequences a pass."""
    alone = Order(7, 0, trainer(epochs=2, batch_size=12, per_step=6))
    order = Order(7, 0, trainer(epochs=2, batch_size=2, per_step=6), processes)
    assert alone.steps == order.steps == 3
    for step in range(3):
        passes = [order.of_step(step, p) for p in range(processes)]
        assert sorted(sum((sum(own, []) for own in passes), [])) == sorted(alone.of_step(step)[0])
        assert {tuple(map(len, own)) for own in passes} == {{1: (2, 2, 2), 2: (2, 1), 3: (2,), 6: (1,)}[processes]}


def test_a_step_that_processes_cannot_share_is_refused():
    with pytest.raises(ValueError, match="trainer.sequences_per_step=6: 4 processes cannot share them evenly"):
        Order(7, 0, trainer(per_step=6), 4)
