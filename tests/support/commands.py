"""Every command that loads a model, on four sentences in a directory whose model is called `model`."""

import json

from support.console import write_lines
from support.models import PAIRS, preference_texts

COMMANDS = {
    "train": "train --model model --prefs p.jsonl --output-dir out --set args.max_steps=1",
    "translate": "translate s.en --model model --src-lang en --tgt-lang de --output c.jsonl --set max_new_tokens=3",
    "evaluate": "evaluate --model model --source s.en --reference r.de --src-lang en --tgt-lang de --metric chrf "
    "--set decoding.max_new_tokens=3 --set resamples=10 --output-dir e",
    "run": "run r.toml --output-dir o",
}

TRIPLETS = [
    {"source": text.source, "chosen": text.targets[0], "rejected": text.targets[1], "src_lang": "en", "tgt_lang": "de"}
    for text in preference_texts(4)
]

SEGMENTS = [{"source": en, "references": [de], "src_lang": "en", "tgt_lang": "de"} for en, de in PAIRS[:3]]

RECIPE = """
[model]
name = "model"
[data]
source = "s.en"
hypotheses = { a = "w.de", b = "r.de" }
references = ["r.de"]
src_lang = "en"
tgt_lang = "de"
[prefs]
metrics = ["chrf"]
[train]
[train.args]
max_steps = 1
[evaluate]
metrics = ["chrf"]
resamples = 10
decoding = { max_new_tokens = 3, num_beams = 1 }
sets = [{ name = "t", source = "s.en", references = ["r.de"], src_lang = "en", tgt_lang = "de" }]
"""


def write_inputs(folder):
    """Write what the commands read, but for the model."""
    write_lines(folder / "s.en", [en for en, _ in PAIRS[:4]])
    write_lines(folder / "r.de", [de for _, de in PAIRS[:4]])
    write_lines(folder / "w.de", [de for _, de in PAIRS[40:44]])
    write_lines(folder / "p.jsonl", [json.dumps(triplet) for triplet in TRIPLETS])
    (folder / "r.toml").write_text(RECIPE, encoding="utf-8")
