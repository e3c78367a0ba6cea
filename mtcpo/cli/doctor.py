"""`mtcpo doctor`: what this environment can do, and how to get what is missing."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator
from importlib import import_module, metadata

from mtcpo.core.errors import counted
from mtcpo.core.version import __version__

REMEDIES = {
    "torch": "pip install torch",
    "transformers": "pip install 'transformers>=4.57,<6'",
    "accelerate": "pip install accelerate",
    "datasets": "pip install datasets",
    "sacrebleu": "pip install sacrebleu",
    "peft": "pip install 'mtcpo[lora]', for adapters",
    "ctranslate2": "pip install 'mtcpo[ct2]', which translates faster than transformers",
    "vllm": "pip install 'mtcpo[vllm]', which translates with decoder-only models on GPUs",
    "bitsandbytes": "pip install 'mtcpo[qlora]', for adapters on quantized weights",
    "lingua": "pip install 'mtcpo[langid]', which finds off-target outputs",
    "MeCab": "pip install 'mtcpo[mecab]', for BLEU of Japanese",
    "mecab_ko": "pip install 'mtcpo[mecab]', for BLEU of Korean",
    "comet": "pip install 'mtcpo[comet]', which pins what COMET needs to import; docs/pairs.md has two other ways",
}
"""Module -> what to do if it cannot be imported."""

# Module -> PyPI package, if the names differ.
DISTRIBUTIONS = {
    "comet": "unbabel-comet",
    "lingua": "lingua-language-detector",
    "MeCab": "mecab-python3",
    "mecab_ko": "mecab-ko",
}


def check_environment() -> Iterator[str]:
    """Yield a line for each package: its version, or why it does not work and what to do."""
    yield f"mtcpo {__version__}, Python {platform.python_version()}"
    for module, remedy in REMEDIES.items():
        yield _check(module, remedy)
    yield _devices()


def _check(module: str, remedy: str) -> str:
    name = DISTRIBUTIONS.get(module, module)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"missing  {name}: {remedy}"
    try:
        with warnings.catch_warnings():
            # Deprecation warnings inside other packages: nothing that a user could fix.
            warnings.simplefilter("ignore")
            import_module(module)
    # A broken package may raise anything, and the user needs to see it.
    except Exception as error:
        return f"broken   {name} {version}: {type(error).__name__}: {error}; {remedy}"
    return f"ok       {name} {version}"


def _devices() -> str:
    try:
        import torch
    except ImportError:
        return "missing  devices: torch is not installed"
    if not torch.cuda.is_available():
        return f"ok       CPU, {counted(torch.get_num_threads(), 'thread')}; no GPU that torch can use"
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    kinds = ", ".join(sorted(set(names)))
    return f"ok       {counted(len(names), 'GPU')}: {kinds}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}"
