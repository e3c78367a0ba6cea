"""A small recipe that several test files run."""

from support.console import lines_of, write_lines

RECIPE = """
# A tiny mT5 from scratch, seconds in all.
[model.create]
vocab_size = 150
d_model = 16
d_ff = 32
layers = 1
heads = 2

[sft]
data = { source = "train.en", references = ["train.de"], src_lang = "en", tgt_lang = "de" }

[sft.args]
per_device_train_batch_size = 16
max_steps = 4
learning_rate = 4e-3

[data]
source = "prefs.en"
references = ["prefs.de"]
src_lang = "en"
tgt_lang = "de"

[translate]
num_candidates = 3
sampling = "epsilon"
max_new_tokens = 6

[prefs]
metrics = ["chrf", "bleu"]

[train]

[train.args]
per_device_train_batch_size = 8
max_steps = 3
logging_steps = 1

[control]

[evaluate]
metrics = ["chrf", "ter"]
resamples = 50
decoding = { num_beams = 2, max_new_tokens = 6 }

[[evaluate.sets]]
name = "tiny"
source = "test.en"
references = ["test.de"]
src_lang = "en"
tgt_lang = "de"
"""


STAGES = ["create", "sft", "translate", "prefs", "train", "control", "decode base", "decode tuned", "decode control",
          "evaluate", "report"]  # fmt: skip


def write_recipe(folder):
    """The tiny recipe with its texts, some of whose sources are empty."""
    for name, count in (("train", 60), ("prefs", 16), ("test", 5)):
        for language in ("en", "de"):
            lines = lines_of(f"{name}.{language}", count)
            if name != "test" and language == "en":
                lines[3] = ""
            write_lines(folder / f"{name}.{language}", lines)
    (folder / "tiny.toml").write_text(RECIPE, encoding="utf-8")
    return folder / "tiny.toml"
