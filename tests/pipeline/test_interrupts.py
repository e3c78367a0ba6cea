"""Signals at any moment: exit 130, one line, nothing half-written, and the same command goes on; after a kill too."""

import itertools
import os
import re
import shutil
import signal

import pytest
from support.console import call, contents, finish, interrupted, lines_of, start, write_lines
from support.pipelines import STAGES, write_recipe
from support.timing import wait_until

pytestmark = pytest.mark.slow

SIGNALS = itertools.cycle((signal.SIGINT, signal.SIGTERM))


def interrupt(process, number, group=False):
    """Send a signal to a command, or as a terminal does to its whole group, and return how it ended."""
    os.killpg(process.pid, number) if group else process.send_signal(number)
    return finish(process)


def nothing_unfinished(folder):
    return not [path for path in folder.rglob("*") if path.name.endswith((".partial", ".windows"))]


@pytest.fixture(scope="module")
def texts(tmp_path_factory, model_folder):
    """Texts long enough that every command can be met at work, a model, and triplets."""
    folder = tmp_path_factory.mktemp("interrupts")
    for name in ("prefs.en", "prefs.de"):
        write_lines(folder / name, lines_of(name, 2000) * 3)
    write_lines(folder / "other.de", lines_of("train.de", 6000))
    for language in ("en", "de"):
        write_lines(folder / f"few.{language}", lines_of(f"prefs.{language}", 60))
    write_lines(folder / "wrong.de", lines_of("train.de", 60))
    shutil.copytree(model_folder("mt5"), folder / "mt5dir")
    few = "--source few.en --reference few.de --hyp a=few.de --hyp b=wrong.de"
    outcome = call(*f"build-prefs {few} {LANGUAGES} --metric chrf --output p.jsonl".split(), cwd=folder)
    assert outcome.code == 0, outcome.err
    return folder


LANGUAGES = "--src-lang en --tgt-lang de"


# --- one command after the other ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_build_prefs_leaves_nothing_behind(texts, tmp_path, number):
    command = f"build-prefs --source prefs.en --reference prefs.de --hyp a=prefs.de --hyp b=other.de {LANGUAGES}"
    command = [*f"{command} --metric chrf --metric ter --workers 2 --output".split(), tmp_path / "p.jsonl"]
    process = start(*command, cwd=texts)
    partial = tmp_path / ".p.jsonl.partial"
    wait_until(lambda: partial.exists() and partial.stat().st_size > 0, process)
    # The whole group, as a terminal does: the processes that score must keep quiet too.
    outcome = interrupt(process, number, group=number == signal.SIGINT)
    assert (outcome.code, outcome.out) == (130, "")
    assert re.fullmatch(interrupted(r"[\d,]+ segments scored"), outcome.err)
    assert not list(tmp_path.iterdir())


def test_interrupted_translate_resumes_to_the_same_file(texts, tmp_path):
    """Interrupted between two windows and started again, it writes what an uninterrupted run does."""
    write_lines(tmp_path / "s.en", lines_of("prefs.en", 1600))  # windows of 256, the last of 64
    search = "--num-candidates 2 --sampling epsilon --set max_new_tokens=6 --set batch_size=16"
    command = ["translate", tmp_path / "s.en", *f"--model mt5dir {LANGUAGES} {search} --output".split()]
    process = start(*command, tmp_path / "c.jsonl", cwd=texts)
    wait_until((tmp_path / ".c.jsonl.windows/000000.jsonl").exists, process)
    process.send_signal(signal.SIGSTOP)  # however fast the machine is, it has not ended when the second one comes
    second = call(*command, tmp_path / "c.jsonl", cwd=texts)
    assert (second.code, second.out) == (2, "")
    assert second.err == (
        f"mtcpo: {tmp_path / 'c.jsonl'}: another mtcpo process is writing it; wait until it has finished, or "
        "choose another output\n"
    )
    process.send_signal(signal.SIGINT)
    outcome = interrupt(process, signal.SIGCONT)
    assert (outcome.code, outcome.out) == (130, "")
    assert not (tmp_path / "c.jsonl").exists()
    finished = len(list((tmp_path / ".c.jsonl.windows").glob("*.jsonl")))
    assert 1 <= finished <= 6
    assert outcome.err == interrupted(f"{256 * finished:,} of 1,600 sources translated")
    outcome = call(*command, tmp_path / "c.jsonl", cwd=texts)
    assert (outcome.code, outcome.err) == (0, "")
    assert call(*command, tmp_path / "whole.jsonl", cwd=texts).code == 0
    assert (tmp_path / "c.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert nothing_unfinished(tmp_path)


def test_interrupted_train_resumes_to_the_same_weights(texts, tmp_path):
    settings = "--set args.per_device_train_batch_size=8 --set args.max_steps=80 --set args.save_steps=5"
    command = [*f"train --model mt5dir --prefs p.jsonl {settings} --output-dir".split()]
    process = start(*command, tmp_path / "t", cwd=texts)
    wait_until((tmp_path / ".t.partial/checkpoints/checkpoint-5").exists, process)
    outcome = interrupt(process, next(SIGNALS))
    assert (outcome.code, outcome.out) == (130, "")
    assert re.fullmatch(interrupted(r"saved at step \d+ of 80"), outcome.err)
    assert not (tmp_path / "t").exists()
    outcome = call(*command, tmp_path / "t", cwd=texts)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{tmp_path / 't'}: 60 examples, 80 steps\n", "")
    assert call(*command, tmp_path / "whole", cwd=texts).code == 0
    # The same weights, to the last bit: data order, optimizer, schedule and random numbers went on as they were.
    assert (tmp_path / "t/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert nothing_unfinished(tmp_path)


def test_interrupted_evaluate_leaves_no_results(texts, tmp_path):
    command = f"evaluate --source prefs.en --reference prefs.de {LANGUAGES} --model mt5dir --metric chrf"
    command = f"{command} --set decoding.max_new_tokens=6 --set decoding.num_beams=1 --output-dir"
    process = start(*command.split(), tmp_path / "e", cwd=texts)
    # The first window of translations is written, and twenty-three are to come.
    wait_until(lambda: any(tmp_path.rglob(".*.windows/*.jsonl")), process)
    outcome = interrupt(process, next(SIGNALS))
    assert (outcome.code, outcome.out) == (130, "")
    assert re.fullmatch(interrupted(r"[\d,]+ of 6,000 sources translated"), outcome.err)
    assert not list(tmp_path.rglob("*.txt"))
    assert not list(tmp_path.rglob("evaluation.json"))


# --- a run, in each of its stages -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_recipe(folder)
    outcome = call("run", "tiny.toml", "--output-dir", "out", cwd=folder)
    assert (outcome.code, outcome.err) == (0, "")
    return folder


def test_a_run_interrupted_in_each_stage_writes_the_same_files(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("out"))
    met = []
    signals = itertools.cycle((signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
    for stage in [stage for stage in STAGES if stage not in ("decode tuned", "decode control")]:
        process = start("run", "tiny.toml", "--output-dir", "out", cwd=tmp_path)
        said = []
        for line in process.stdout:
            said.append(line)
            if f"] {stage}: " in line:
                break
        else:
            pytest.fail(f"{stage} never began: {said}")
        if said[-1].endswith("already done\n"):  # the interrupt before came after its end
            process.kill()
            process.communicate()
            continue
        number = next(signals)
        outcome = interrupt(process, number)
        # The stage may end before the signal comes.
        line = "" if number == signal.SIGKILL else interrupted(r"stage \d+ of 11 \([\w ]+\)(, .+)?")
        assert outcome.code == (-signal.SIGKILL if number == signal.SIGKILL else 130), stage
        assert re.fullmatch(line, outcome.err), stage
        met.append(stage)
        assert not (tmp_path / "out/report.html").exists()
    assert len(met) >= len(STAGES) - 4
    outcome = call("run", "tiny.toml", "--output-dir", "out", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert nothing_unfinished(tmp_path)
    timed = ("stamp.json", "report.html", "metrics.jsonl", "training.json")
    results = [
        {name: data.replace(bytes(folder), b"HERE") for name, data in contents(folder / "out").items()}
        for folder in (tmp_path, uninterrupted)
    ]
    assert results[0].keys() == results[1].keys()
    different = [name for name in results[0] if results[0][name] != results[1][name]]
    assert [name for name in different if not name.endswith(timed)] == []
    outcome = call("run", "tiny.toml", "--output-dir", "out", cwd=tmp_path)
    assert outcome.out.count("already done") == len(STAGES)
