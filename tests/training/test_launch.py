"""`mtcpo train` as other programs start it: by accelerate in several processes, and with a hub to push to."""

import json
import os
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer

import pytest
from click.testing import CliRunner
from support.hub import Hub
from support.models import PAIRS, preference_texts
from support.paths import ROOT
from support.timing import HANGS
from support.training import train_config

from mtcpo.cli.commands import mtcpo
from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Triplet, triplet_to_json
from mtcpo.models.loading import load_model
from mtcpo.training.train import train

pytestmark = pytest.mark.processes

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def work(model_folder, tmp_path_factory):
    """A folder with triplets and a dev set of seven sources, and the command that trains on them."""
    folder = tmp_path_factory.mktemp("launch")
    triplets = [Triplet(str(i), "en", "de", text.source, *text.targets) for i, text in enumerate(preference_texts(12))]
    write_row_file(folder / "p.jsonl", map(triplet_to_json, triplets))
    for name, column in (("dev.en", 0), ("dev.de", 1)):
        (folder / name).write_text("".join(pair[column] + "\n" for pair in PAIRS[:7]), encoding="utf-8")
    command = (
        f"-m mtcpo train --model {model_folder('mt5')} --prefs p.jsonl --set args.use_cpu=true --learning-rate 0.003 "
        "--set args.per_device_train_batch_size=3 --set dev.decoding.max_new_tokens=12 --src-lang en --tgt-lang de "
        "--dev-source dev.en --dev-reference dev.de --dev-metric chrf"
    )
    return folder, command.split()


def run(arguments, folder, **environment):
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=HANGS, check=False
    )


def test_accelerate_launch_trains_in_two_processes(work, monkeypatch):
    """One step has the pairs of both processes, each translates a part of the dev set, and only one prints."""
    folder, command = work
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    arguments = [*launch.split(), "--dynamo_backend", "no", "--main_process_port", "0", *command]
    done = run([*arguments, "--output-dir", "two"], folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("two: 12 examples, 2 steps\n  kept step 2, the best by chrf (")
    monkeypatch.chdir(folder)
    alone = [*command[2:], "--set", "args.gradient_accumulation_steps=2", "--output-dir", "one"]
    assert CliRunner().invoke(mtcpo, alone, catch_exceptions=False).stdout == done.stdout.replace("two:", "one:")
    samples = []
    for name in ("one", "two"):
        rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        samples.append([row["samples"] for row in rows if "samples" in row])
    assert samples[0] == samples[1]  # in the order of the dev set, whoever translated which
    load_model(str(folder / "two"), "float32", device="cpu")


def test_the_hub_gets_the_saved_directory(work, tmp_path):
    folder, command = work
    Hub.folder = tmp_path / "hub"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        push = [*command, "--set", "args.push_to_hub=true", "--set", "args.hub_model_id=someone/tuned"]
        done = run([*push, "--output-dir", "pushed"], folder, HF_HUB_OFFLINE="0", HF_ENDPOINT=address, HF_TOKEN="hf_x")
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    pushed = {path.name: path.read_bytes() for path in (tmp_path / "hub").iterdir()}
    saved = {path.name: path.read_bytes() for path in (folder / "pushed").iterdir() if path.is_file()}
    assert pushed == saved
    assert {"README.md", "canary.json", "model.safetensors", "tokenizer.json", "training.json"} <= pushed.keys()


def test_an_unreachable_hub_stops_before_training(model_folder, tmp_path):
    settings = train_config(args={"push_to_hub": True, "hub_model_id": "someone/tuned"})
    with pytest.raises(UserError, match=r"train\.args\.push_to_hub: .*`hf upload NAME DIR` afterwards"):
        train(str(model_folder("mt5")), preference_texts(4), settings, tmp_path / "out")
