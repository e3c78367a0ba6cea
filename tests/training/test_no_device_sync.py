"""Between two logs nothing waits for the device: no value of a tensor is read, and no shape depends on one.

On a CPU nothing has to wait, so what is looked at are the calls that would on a GPU: Python asking a tensor for a
value, operations whose result has a shape that its values decide (a mask as an index is one), copies from the host.
What happens in the collator happens on the host, before the batch is sent; a line that looks at the type of its device
first asks on a CPU alone.
"""

import traceback
from contextlib import ExitStack

import pytest
import torch
from support.training import LOSS_CONFIGS, examples_of, make_trainer
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Seq2SeqTrainingArguments, TrainerCallback

from mtcpo.training import trainer as trainer_module
from mtcpo.training.config import TrainConfig

ASKING = {
    "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "numpy", "cpu", "nonzero",
    "argwhere", "masked_select", "unique", "equal", "allclose", "is_nonzero", "torch.tensor", "torch.as_tensor",
}  # fmt: skip
"""Calls from Python; torch.tensor copies to its device, and waits for the copy."""

OPERATIONS = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "_unique2", "equal", "item"}


def callers():
    """The functions that are running, those of torch left out, the innermost first."""
    return [f for f in reversed(traceback.extract_stack()) if "/torch/" not in f.filename and f.filename != __file__]


class Waiting:
    """Which calls would wait for the device, and on which lines."""

    def __init__(self):
        self.seen = []

    def note(self, what):
        stack = callers()
        if not any(frame.name == "collate" for frame in stack) and "device.type" not in stack[0].line:
            self.seen.append((what, f"{stack[0].filename}:{stack[0].lineno}"))

    def of(self, part):
        return [(what, line) for what, line in self.seen if part in line]


class Calls(TorchFunctionMode):
    def __init__(self, waiting):
        super().__init__()
        self.waiting = waiting

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = resolve_name(function) or getattr(function, "__name__", "")
        if {name, name.rpartition(".")[2]} & ASKING:
            self.waiting.note(name)
        return function(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    def __init__(self, waiting):
        super().__init__()
        self.waiting = waiting

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ())
        )
        if name in OPERATIONS or masks:
            self.waiting.note(name)
        return function(*args, **(kwargs or {}))


class Between(TrainerCallback):
    """Watches from the end of one step to the end of another; between them batches are fetched and weights change."""

    def __init__(self, waiting, first, last):
        self.waiting, self.first, self.last = waiting, first, last
        self.modes = ExitStack()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.first:
            self.modes.enter_context(Calls(self.waiting))
            self.modes.enter_context(Operations(self.waiting))
        elif state.global_step == self.last:
            self.modes.close()


def watched(loaded, config, folder, **args):
    """Train two steps and return what would wait for the device."""
    waiting = Waiting()
    settings = {"max_steps": 4, "logging_steps": 4, "per_device_train_batch_size": 2, "save_strategy": "no"} | args
    trainer = make_trainer(loaded, config, examples_of(loaded, config, count=8), folder, **settings)
    trainer.add_callback(Between(waiting, 1, 3))
    trainer.train()
    assert [row["step"] for row in trainer.state.log_history if "loss" in row] == [4]
    return waiting


@pytest.mark.parametrize(
    ("kind", "name"),
    [("mt5", "sigmoid"), ("mt5", "smoothed nll"), ("mt5", "arpo"), ("mt5", "sft"), ("nllb", "ipo"),
     ("marian", "hinge"), ("llama", "sigmoid"), ("llama", "smoothed nll"), ("mixtral", "simpo")],
)  # fmt: skip
def test_a_step_does_not_synchronize_with_the_device(load, kind, name, tmp_path):
    waiting = watched(load(kind), LOSS_CONFIGS[name], tmp_path, gradient_accumulation_steps=2)
    assert not waiting.of("/mtcpo/")
    assert not waiting.of("/transformers/trainer.py"), "the loop of transformers"


def test_a_step_on_the_models_own_logits_does_not_synchronize(load, tmp_path):
    loaded = load("mt5")
    for positions in ("real", "all"):
        loaded.head.logits_mode = positions
        assert not watched(loaded, TrainConfig(), tmp_path / positions).of("/mtcpo/")


def test_synchronizing_calls_are_detected(load, tmp_path, monkeypatch):
    """The kinds of calls that once were in the code, or are likely to be written."""
    count_items = trainer_module.count_items

    def asking(batch, sft):
        labels = batch["labels"]
        float(labels.sum())
        labels.sum().item()
        labels.tolist()
        labels[labels > 3]
        torch.tensor(3, device=labels.device)
        if (labels > 3).any():
            pass
        return count_items(batch, sft)

    monkeypatch.setattr(trainer_module, "count_items", asking)
    asked = watched(load("mt5"), TrainConfig(), tmp_path).seen
    assert {"item", "tolist", "index", "tensor", "__bool__", "__float__"} <= {
        what.rpartition(".")[2] for what, _ in asked
    }


def test_batches_are_sent_while_the_device_works(load, tmp_path):
    trainer = make_trainer(load("mt5"), TrainConfig(), examples_of(load("mt5"), TrainConfig()), tmp_path)
    assert Seq2SeqTrainingArguments.__dataclass_fields__[
        "dataloader_pin_memory"
    ].default  # off where only a CPU is used
    for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader(trainer.train_dataset)):
        assert loader._non_blocking
        batch = next(iter(loader))
        assert all(
            isinstance(count, int) for count in batch["positions_per_source"]
        )  # where no device has to be asked for them
