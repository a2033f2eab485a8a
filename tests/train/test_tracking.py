import json

from accelerate import Accelerator

from speculators.train.tracking import Tracking


def test_lines_after_the_first_step_and_a_line_that_was_cut_off_are_made_again(make_run, tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "kind": "train", "loss": 1.0}) + "\n" for step in (2, 4, 6)]
    file.write_text("".join(lines) + '{"step": 8, "kin')
    tracking = Tracking(Accelerator(cpu=True), make_run(), tmp_path, first=4)
    assert file.read_text() == "".join(lines[:2])
    tracking.log(6, "train", {"loss": 0.5})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [2, 4, 6]
