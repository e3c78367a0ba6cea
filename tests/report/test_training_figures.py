import pytest
from support.runs import training_log

from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.report.training_figures import read_training_log, training_figures


def test_the_training_log_is_read_by_stage_and_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"stage": "sft", "step": 10, "loss": 3.0},
        {"stage": "sft", "step": 20, "loss": 2.0},
        {"stage": "sft", "step": 20, "eval_loss": 2.5},
        # A run that was interrupted and resumed from step 10: the later value counts.
        {"stage": "sft", "step": 20, "loss": 1.9},
        {"stage": "cpo", "step": 5, "loss": 1.0},
    ]
    write_row_file(path, rows)
    stages = read_training_log(path)
    assert list(stages) == ["sft", "cpo"]
    assert stages["sft"][1] == {"stage": "sft", "step": 20, "loss": 1.9, "eval_loss": 2.5}
    assert read_training_log(tmp_path / "none.jsonl") == {}


def test_a_training_log_without_steps_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "sft", "loss": 3.0}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:1: this row of the training log has no numeric 'step'"):
        read_training_log(tmp_path / "metrics.jsonl")


def test_each_stage_has_the_curves_of_what_it_logged(tmp_path):
    write_row_file(tmp_path / "m.jsonl", training_log())
    stages = read_training_log(tmp_path / "m.jsonl")
    assert [figure.title for figure in training_figures(stages["sft"])] == ["Loss"]
    figures = training_figures(stages["cpo"])
    assert [figure.title for figure in figures] == [
        "Loss",
        "Negative log-likelihood, chosen",
        "Reward margin",
        "Reward accuracy",
        "Rewards",
        "Log-probabilities",
    ]
    assert figures[-1].legend == ("logps/chosen", "logps/rejected")
    assert figures[0].legend == ()


def test_values_that_are_not_finite_are_counted_and_not_drawn():
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": float("inf")}]
    (figure,) = training_figures(rows)
    assert figure.note == "2 values are not finite and not drawn"
    assert training_figures([{"step": 1, "train_runtime": 3.0}]) == []
