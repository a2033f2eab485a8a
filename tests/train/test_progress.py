from speculators.train.interrupt import Interrupted
from speculators.train.progress import TrainProgress, describe
from speculators.train.tracking import flatten
from speculators.utils.process import logging_to

READINGS = {
    "loss": 1.2345, "accuracy": [0.5, 0.25], "acceptance": 1.625, "tokens_per_second": 1234.5, "memory_gb": 0.5,
}  # fmt: skip


def test_without_a_terminal_there_is_one_line_a_reading(capsys):
    with TrainProgress(10, 4, shown=True) as progress:
        progress.advance()
        progress.show(5, READINGS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("step 5/10 loss 1.234 accuracy 0.50 0.25 1234 tokens/s 0.5 GB left")


def test_other_processes_are_silent(capsys):
    with TrainProgress(10, 0, shown=False) as progress:
        progress.show(1, READINGS)
        progress.say("no")
    assert capsys.readouterr().out == ""


def test_the_log_has_steps_and_where_training_stopped(tmp_path):
    with logging_to(tmp_path / "train.log"), TrainProgress(10, 0, shown=True) as progress:
        progress.advance()
        progress.show(1, READINGS)
        progress.say(Interrupted(1, "speculators run runs/a").message)
    lines = [line.partition("[INFO] - ")[2] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert lines[0].startswith("step 1/10 loss 1.234")
    assert lines[1] == "stopped after step 1; the state is saved. To resume: speculators run runs/a"


def test_heldout_readings_have_no_speed():
    assert describe({"loss": 1.0, "accuracy": [0.5]}) == "loss 1.000 accuracy 0.50"


def test_trackers_get_numbers_by_slash():
    assert flatten({"train": {"loss": 1.0, "accuracy": [0.5, 0.2]}, "none": None}) == {
        "train/loss": 1.0, "train/accuracy/1": 0.5, "train/accuracy/2": 0.2, "none": "null",
    }  # fmt: skip
