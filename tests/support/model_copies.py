"""Copies of tiny models that tests damage, and what they compare of them."""

import json

from safetensors.torch import load_file, save_file

from mtcpo.models.canary import head_and_model_logps
from mtcpo.models.loading import load_model
from mtcpo.models.prompts import TextExample
from support.models import preference_texts


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def edit_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def text_of(source, *targets):
    """As canaries have it: no template."""
    return TextExample(source, "en", "de", targets, prompt=source)


def load_here(folder):
    return load_model(str(folder), "float32", device="cpu")


def parts(loaded):
    return loaded.model, loaded.layout, loaded.head


def logps_of(loaded):
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(4)))
    return head_and_model_logps(*parts(loaded), batch)[0]
