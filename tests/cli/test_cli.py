"""Every command: what it prints and writes, and the one line with which it refuses each mistake."""

import errno
import gzip
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.console import ENVIRONMENT, call, contents, lines_of, mistake, run, small_disk, words, write_lines

from mtcpo.cli.doctor import REMEDIES
from mtcpo.core.errors import UserError
from mtcpo.core.outputs import writing
from mtcpo.data.file_formats.registry import row_suffixes, writable_suffixes
from mtcpo.data.rows import read_segments
from mtcpo.data.triplets import read_triplets
from mtcpo.metrics.registry import METRICS
from mtcpo.models.families import ALIASES
from mtcpo.preferences.combining import COMBINATIONS
from mtcpo.preferences.selections import SELECTIONS
from mtcpo.training.losses import LOSSES

CORPUS = "--source s.en --reference r.de --src-lang en --tgt-lang de"
HYPS = "--hyp a=wrong.de --hyp b=r.de"
PREFS = f"build-prefs {CORPUS} {HYPS} --metric chrf"
TRAIN = "train --model mt5dir --set args.max_steps=2 --set args.per_device_train_batch_size=4"
TRANSLATE = "translate s.en --model mt5dir --src-lang en --tgt-lang de --set max_new_tokens=4"
EVALUATE = f"evaluate {CORPUS} --metric chrf"


@pytest.fixture(scope="module")
def originals(tmp_path_factory, model_folder):
    """A folder as a user may have it: texts with all their faults, and models that lack something."""
    folder = tmp_path_factory.mktemp("user")
    source, target = lines_of("prefs.en", 6), lines_of("prefs.de", 6)
    write_lines(folder / "s.en", source)
    write_lines(folder / "r.de", target)
    write_lines(folder / "wrong.de", lines_of("test.de", 6))
    write_lines(folder / "short.de", target[:5])
    write_lines(folder / "gaps.en", [*source[:2], "", *source[3:5], "   "])
    (folder / "empty.en").write_bytes(b"")
    (folder / "blank.en").write_bytes(b"\n \n")
    (folder / "latin1.en").write_bytes("Good.\nBad: ü\n".encode("latin-1"))
    write_lines(folder / "two.de", ["Gut.", "Schlecht."])
    (folder / "broken.jsonl").write_text('{"id": 3\n')
    (folder / "list.jsonl").write_text("[1]\n")
    (folder / "odd.jsonl").write_text('{"first": "a", "second": "b"}\n')
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"id": "1"}\n' * 9)[:20])
    (folder / "folder").mkdir()
    (folder / "bare.toml").write_text('test_sets = ["wmt22:de-en"]\n')
    stem = "generaltest2022.de-en"
    for name in (f"sources/{stem}.src.de", f"references/{stem}.ref.A.en", f"references/{stem}.ref.B.en",
                 f"system-outputs/{stem}.hyp.Online-A.en"):  # fmt: skip
        (folder / "wmt" / name).parent.mkdir(parents=True, exist_ok=True)
        write_lines(folder / "wmt" / name, ["Good.", "Bad."])
    (folder / "mt5dir").symlink_to(model_folder("mt5"))
    for name, file in (("notokenizer", "tok"), ("noconfig", "config"), ("noweights", "model"), ("cut", "")):
        shutil.copytree(model_folder("mt5"), folder / name)
        for path in (folder / name).iterdir():
            if file and path.name.startswith((file, "spiece") if file == "tok" else file):
                path.unlink()
    os.truncate(folder / "cut/model.safetensors", 500)
    return folder


@pytest.fixture
def here(originals, tmp_path, monkeypatch):
    """The working directory of the command under test."""
    for path in originals.iterdir():
        if path.is_dir():
            (tmp_path / path.name).symlink_to(path)
        else:
            shutil.copyfile(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def scored(here, capsys):
    """Beside the texts: p.jsonl with its report, and candidates."""
    assert run(capsys, *PREFS.split(), "--output", "p.jsonl").code == 0
    write_lines(here / "c.jsonl", [json.dumps({
        "id": "1", "src_lang": "en", "tgt_lang": "de", "source": "One bird.", "references": ["Ein Vogel."],
        "candidates": [{"system": "a", "text": "Ein Vogel."}, {"system": "b", "text": "Zwei Hunde."}],
    })])  # fmt: skip
    write_lines(here / "prompts.jsonl", [json.dumps({"prompt": "One bird.", "chosen": "Ein V.", "rejected": "Ein W."})])
    return here


# --- mistakes -------------------------------------------------------------------------------------------------------

NO_MODEL = (
    "model 'google/mt5-small' is neither a local directory nor in the Hugging Face cache, "
    "and cannot be downloaded (no network); on a machine with network run "
    "`hf download google/mt5-small --local-dir DIR`, copy DIR here, and pass --model DIR"
)

NOT_WRITABLE = f"mtcpo reads this format but cannot write it; use a name in {writable_suffixes()}"

MISTAKES = [
    # usage
    ("nonsense", "no such command 'nonsense'; see mtcpo --help"),
    ("build-prefs", "missing option '--output'; see mtcpo build-prefs --help"),
    ("train --model m --prefs p.jsonl --loss cpo --output-dir out",
     f"command line: loss: choose from {', '.join(LOSSES)}; the CPO paper's is sigmoid (got 'cpo')"),
    ("evaluate s.en", "unexpected argument 's.en': files need an option such as --hyp, run directories need --compare"),
    ("export p.jsonl --to xlsx --output x", "invalid value for '--to': 'xlsx' is not "),
    # texts
    (f"build-prefs --source no.en --reference r.de {HYPS} --metric chrf --src-lang en --tgt-lang de --output q.jsonl",
     "no.en: no such file"),
    (f"{PREFS.replace('r.de', 'short.de', 1)} --output q.jsonl",
     "line counts differ: {here}/s.en has 6, {here}/short.de has 5; the files must be aligned line by line"),
    (f"{PREFS} --hyp c=short.de --output q.jsonl", "{here}/short.de has 5"),
    ("build-prefs --source latin1.en --reference two.de --hyp a=two.de --src-lang en --tgt-lang de --metric chrf "
     "--output q.jsonl",
     "{here}/latin1.en:2: not UTF-8 (byte 0xfc at column 6); convert it, for example with iconv -t UTF-8"),
    ("build-prefs --source empty.en --reference empty.en --hyp a=empty.en --src-lang en --tgt-lang de --metric chrf "
     "--output q.jsonl", "{here}/empty.en: it has no segments; a corpus needs at least one"),
    ("build-prefs --source blank.en --reference two.de --hyp a=two.de --src-lang en --tgt-lang de --metric chrf "
     "--output q.jsonl", "no preference pair is left (empty_source: 2)"),
    ("build-prefs broken.jsonl --metric chrf --output q.jsonl", "{here}/broken.jsonl:1: not JSON"),
    ("build-prefs list.jsonl --metric chrf --output q.jsonl", "{here}/list.jsonl:1: a JSON object is needed, not list"),
    ("build-prefs cut.jsonl.gz --metric chrf --output q.jsonl", "{here}/cut.jsonl.gz: truncated after line 0 ("),
    ("build-prefs s.en --metric chrf --src-lang en --tgt-lang de --output q.jsonl",
     "no preference pair is left (no_candidates: 6)"),
    # options of build-prefs
    (f"{PREFS} --hyp a=r.de --output q.jsonl", "two systems are named 'a' (wrong.de and r.de); give each its own name"),
    (f"{PREFS} --hyp ../c=r.de --output q.jsonl", "system name '../c': write it without path separators"),
    (f"{PREFS} --hyp r.de --output q.jsonl", "'r.de': write it as NAME=FILE, for example --hyp baseline=baseline.txt"),
    (f"build-prefs {CORPUS} {HYPS} --output q.jsonl",
     "no metric to select pairs by; give one, for example --metric chrf"),
    (f"build-prefs {CORPUS} {HYPS} --metric crf --output q.jsonl",
     f"unknown metric 'crf' (did you mean 'chrf'?); choose from {', '.join(sorted(METRICS))}"),
    (f"{PREFS} --tgt-lang xx --output q.jsonl", "unknown language 'xx'; give a BCP-47 code such as de, zh or pt-BR"),
    (f"{PREFS} --tgt-lang German --output q.jsonl", "unknown language 'German' (did you mean 'de'?)"),
    (f"build-prefs --source s.en --reference r.de {HYPS} --metric chrf --output q.jsonl",
     "{here}/s.en: plain text does not name its languages; give src_lang and tgt_lang"),
    (f"build-prefs {HYPS} --metric chrf --output q.jsonl", "give either a CANDIDATES file or --source with --hyp"),
    ("build-prefs c.jsonl --hyp a=r.de --metric chrf --output q.jsonl",
     "--reference and --hyp need --source; a CANDIDATES file has its own"),
    (f"{PREFS} --select worst --output q.jsonl", "unknown selection 'worst' (did you mean 'best-worst'?)"),
    (f"{PREFS} --set min_margn=3 --output q.jsonl",
     "unknown key 'min_margn' (did you mean 'min_margin'?); its keys are"),
    (f"{PREFS} --set prefs.min_margin=much --output q.jsonl", "min_margin: Input should be a valid number"),
    (f"{PREFS} --set min_margin --output q.jsonl",
     "--set 'min_margin': write it as KEY=VALUE, for example --set train.beta=0.2"),
    # outputs
    (f"{PREFS} --output s.en", "s.en is also an input of this command and would be lost"),
    (f"{PREFS} --output folder --overwrite", "folder is a folder, and a file is needed; choose another output"),
    (f"{PREFS} --output folder", "folder is a folder, and a file is needed; choose another output"),
    (f"{PREFS} --output s.en --overwrite", "s.en is also an input of this command and would be lost; choose another"),
    ("export p.jsonl --to trl --output ./p.jsonl --overwrite", "p.jsonl is also an input of this command and would be"),
    (f"{PREFS} --output s.en/p.jsonl", "s.en/p.jsonl: {here}/s.en is a file, not a folder; choose another output"),
    (f"{PREFS.replace('s.en', 'no.en')} --output x.csv", f"x.csv: {NOT_WRITABLE}"),
    ("export no.jsonl --to trl --output x.tsv.gz", f"x.tsv.gz: {NOT_WRITABLE}"),
    ("translate no.en --model ./no --src-lang en --tgt-lang de --output x.csv.zst", f"x.csv.zst: {NOT_WRITABLE}"),
    (f"{PREFS} --output {'n' * 300}", "cannot be written (file name too long); choose another output"),
    (f"{TRAIN} --prefs p.jsonl --output-dir folder", "folder exists; pass --overwrite to replace it"),
    (f"{TRAIN} --prefs p.jsonl --output-dir s.en --overwrite", "s.en is a file, and a folder is needed"),
    (f"{EVALUATE} {HYPS} --output-dir s.en", "s.en/evaluation.json: {here}/s.en is a file, not a folder"),
    # evaluate
    ("evaluate", "give either --model, or outputs to score: --hyp NAME=FILE"),
    (f"evaluate {HYPS}", "no test set to evaluate on; name one, for example --suite wmt22:de-en"),
    (f"evaluate {HYPS} --reference r.de", "--reference needs --source; test sets of a --suite have their own"),
    (f"evaluate --source s.en {HYPS}", "--source needs --src-lang and --tgt-lang"),
    (f"evaluate --source s.en --src-lang en --tgt-lang de {HYPS}", "no reference for segment"),
    (f"evaluate --source s.en --reference r.de --src-lang en --tgt-lang xx {HYPS}", "unknown language 'xx'"),
    (f"{EVALUATE} --hyp a=short.de", "short.de: 5 lines, but s.en has 6; line n of one must translate line n"),
    (f"{EVALUATE} --hyp a=empty.en", "empty.en: 0 lines, but s.en has 6"),
    (f"{EVALUATE} --hyp a=no.de", "no.de: no such file"),
    (f"{EVALUATE} {HYPS} --hyp a=r.de", "two systems are named 'a' (wrong.de and r.de)"),
    (f"{EVALUATE} --hyp x/y=r.de", "system name 'x/y': write it without path separators"),
    (f"{EVALUATE} {HYPS} --metric bluu", "unknown metric 'bluu' (did you mean 'bleu'?)"),
    (f"{EVALUATE} {HYPS} --baseline c", "unknown baseline 'c'; choose from a, b"),
    (f"{EVALUATE} {HYPS} --baseline-model mt5dir",
     "--baseline-model needs --model; to choose the baseline among --hyp outputs"),
    (f"{EVALUATE} {HYPS} --set decoding.num_beans=3",
     "unknown key 'decoding.num_beans' (did you mean 'num_beams'?); its keys are"),
    (f"evaluate --suite demmo {HYPS}", "unknown suite 'demmo' (did you mean 'demo'?); choose from"),
    (f"evaluate --suite wmt22:xx-en {HYPS}", "unknown language pair of wmt22 'xx-en'"),
    (f"evaluate --suite wmt22:de-en --test-set-dir no {HYPS}", "--test-set-dir no: no such folder"),
    (f"evaluate --suite wmt22:de-en --test-set-dir folder {HYPS}",
     "no test set wmt22:de-en in it; place sources/generaltest2022.de-en.src.de and "),
    # models
    (f"{EVALUATE} --model mt5", NO_MODEL),
    (f"{EVALUATE} --hyp a=r.de --reference A=r.de --reference A=wrong.de",
     "sets.0: two references are named 'A'; give each its own name"),
    (f"{EVALUATE} --hyp a=r.de --reference B=short.de",
     "line counts differ: {here}/s.en has 6, {here}/short.de has 5; the files must be aligned line by line"),
    (f"{EVALUATE} --hyp a=r.de --reference B=no.de", "no.de: no such file"),
    (f"evaluate --suite bare.toml {HYPS}",
     'bare.toml: no metric in it; add one, for example metrics = ["bleu", "chrf"]'),
    (f"evaluate --suite wmt22:de-en:C --test-set-dir wmt {HYPS}",
     "unknown reference of wmt22:de-en 'C'; choose from A, B"),
    (f"evaluate --suite wmt22:de-en:A,refA --test-set-dir wmt {HYPS}",
     "wmt22:de-en: reference 'A' is named twice; name it once"),
    (f"evaluate --suite wmt23:de-en --test-set-dir wmt {HYPS}", "it has wmt22:de-en (did you mean 'wmt22:de-en'?)"),
    (f"evaluate --suite wmt222:de-en {HYPS}",
     "unknown test set 'wmt222' (did you mean 'wmt22'?); run sacrebleu --list"),
    (f"evaluate --suite flores200:de-en {HYPS}",
     "get it from the flores200_dataset archive and pass --test-set-dir DIR with DIR/devtest/deu_Latn.devtest and"),
    (f"evaluate --suite ../x:de-en --test-set-dir wmt {HYPS}", "test set name '../x': write it without path sep"),
    ("evaluate --suite wmt22:de-en --test-set-dir wmt --submitted --hyp Online-A=r.de",
     "/wmt/sources/generaltest2022.de-en.src.de has 2; line n of one must translate line n of the other"),
    ("evaluate --suite wmt22:de-en --test-set-dir wmt --submitted --hyp Online-A=two.de",
     "two systems are named 'Online-A': yours and one submitted for wmt22; rename yours"),
    ("evaluate --compare s.en r.de", "s.en: no evaluation.json in it; evaluate it first, with --output-dir s.en"),
    ("translate s.en --model mt5 --src-lang en --tgt-lang de --output c2.jsonl", NO_MODEL),
    (f"{TRAIN.replace('mt5dir', 'mt5')} --prefs p.jsonl --output-dir t", NO_MODEL),
    ("translate s.en --model ./no --src-lang en --tgt-lang de --output c2.jsonl", "./no: no such model directory"),
    ("translate s.en --model notokenizer --src-lang en --tgt-lang de --output c2.jsonl",
     "notokenizer: a model without a tokenizer; copy the tokenizer files of its base model into it"),
    (f"{TRAIN.replace('mt5dir', 'notokenizer')} --prefs p.jsonl --output-dir t",
     "notokenizer: a model without a tokenizer"),
    ("translate s.en --model noconfig --src-lang en --tgt-lang de --output c2.jsonl",
     "noconfig: no config.json in it, so it is not a model directory"),
    ("translate s.en --model noweights --src-lang en --tgt-lang de --output c2.jsonl", "noweights: cannot be loaded ("),
    ("translate s.en --model cut --src-lang en --tgt-lang de --output c2.jsonl", "cut: cannot be loaded ("),
    (f"{TRANSLATE} --dtype float16 --output c2.jsonl", "float16 overflows to NaN in the mt5 family; use bfloat16"),
    # translate
    ("translate no.en --model mt5dir --src-lang en --tgt-lang de --output c2.jsonl", "no.en: no such file"),
    ("translate blank.en --model mt5dir --src-lang en --tgt-lang de --output c2.jsonl",
     "blank.en: every source is empty"),
    ("translate s.en ./s.en --model mt5dir --src-lang en --tgt-lang de --output c2.jsonl",
     "two sources are named s.en; their segments would have the same ids"),
    ("translate s.en r.de --reference r.de --model mt5dir --src-lang en --tgt-lang de --output c2.jsonl",
     "--reference needs a single SOURCE; translate several files one by one"),
    (f"{TRANSLATE} --reference short.de --output c2.jsonl", "{here}/s.en has 6, {here}/short.de has 5"),
    (f"{TRANSLATE} --num-candidates 8 --output c2.jsonl",
     "beam search with 4 beams cannot give 8 candidates; raise num_beams or choose sampling = 'epsilon'"),
    (f"{TRANSLATE} --set nummbeams=3 --output c2.jsonl", "unknown key 'nummbeams' (did you mean 'num_beams'?)"),
    (f"{TRANSLATE} --set translate.top_p=3 --output c2.jsonl",
     "top_p: Input should be less than or equal to 1 (got 3)"),
    (f"{TRANSLATE} --shard 3/2 --output c2.jsonl",
     "--shard 3/2: give the number of the shard and how many there are, from 1/4 to 4/4"),
    (f"{TRANSLATE} --system a/b --output c2.jsonl", "system name 'a/b': write it without path separators"),
    (f"{TRANSLATE} --prompt x --output c2.jsonl",
     "prompt 'x': the model would not see the source; write {{source}} where it belongs"),
    (f"{TRANSLATE} --prompt {{{{sorce}}}} --output c2.jsonl",
     "unknown field of a prompt 'sorce' (did you mean 'source'?); choose from"),
    # train
    (f"{TRAIN} --output-dir t", "give --prefs FILE, or --loss sft with --source FILE --reference FILE"),
    (f"{TRAIN} --prefs p.jsonl --reference r.de --output-dir t", "give --prefs FILE, or --loss sft with --source FILE"),
    (f"{TRAIN} --source s.en --reference r.de --output-dir t", "give --prefs FILE, or --loss sft with --source FILE"),
    (f"{TRAIN} --prefs no.jsonl --output-dir t", "no.jsonl: no such file"),
    (f"{TRAIN} --prefs p.jsonl --dev-metric chrf --output-dir t",
     "--dev-reference, --dev-metric and --dev-engine need --dev-source"),
    (f"{TRAIN} --prefs p.jsonl --dev-source s.en --dev-reference r.de --src-lang en --tgt-lang de --dev-engine vllm"
     " --output-dir t", "dev: engine: vllm cannot run a model in training; choose transformers or ctranslate2"),
    (f"{TRAIN} --prefs p.jsonl --dtype int8 --output-dir t", "'int8' is not one of 'auto', 'float32'"),
    # engines
    *(
        (f"{command} --engine {engine}", message)
        for command in ("translate s.en --model mt5dir --src-lang en --tgt-lang de --output c2.jsonl",
                        "evaluate --source s.en --reference r.de --src-lang en --tgt-lang de --model mt5dir")
        for engine, message in (
            ("fast", "'fast' is not one of 'auto', 'transformers', 'ctranslate2', 'vllm'"),
            ("vllm", "engine vllm needs vllm: pip install 'mtcpo[vllm]', or choose the engine transformers"),
            ("transformers --dtype int8", "dtype int8 needs the engine ctranslate2, not transformers; choose that"),
        )
    ),
    (f"{TRAIN} --prefs p.jsonl --dev-source s.en --output-dir t", "dev: a dev set needs src_lang and tgt_lang"),
    (f"{TRAIN} --prefs p.jsonl --eval-prefs no.jsonl --output-dir t", "no.jsonl: no such file"),
    (f"{TRAIN} --prefs s.en --output-dir t",
     f"s.en: not a file of rows; its name must end in {row_suffixes()}"),
    (f"{TRAIN} --prefs c.jsonl --output-dir t",
     "c.jsonl:1: these are candidates, not triplets; choose pairs first: mtcpo build-prefs {here}/c.jsonl"),
    (f"{TRAIN} --prefs odd.jsonl --output-dir t", "odd.jsonl:1: "),
    (f"{TRAIN} --loss sft --source blank.en --reference two.de --src-lang en --tgt-lang de --output-dir t",
     "blank.en: every source in it is empty"),
    (f"{TRAIN} --loss sft --source s.en --src-lang en --tgt-lang de --output-dir t",
     "segment s.en:1: no reference, and supervised training needs one"),
    (f"{TRAIN} --prefs p.jsonl --beta -1 --output-dir t", "beta: Input should be greater than 0 (got -1.0)"),
    (f"{TRAIN} --prefs p.jsonl --set train.bta=1 --output-dir t", "unknown key 'bta' (did you mean 'beta'?); its keys"),
    (f"{TRAIN} --prefs p.jsonl --set args.optimm=x --output-dir t",
     "train.args.optimm: no such training argument (did you mean 'optim'?)"),
    (f"{TRAIN} --prefs p.jsonl --set train.args.optim=foo --output-dir t",
     "train.args: foo is not a valid OptimizerNames"),
    (f"{TRAIN} --prefs p.jsonl --set args.max_steps=many --output-dir t",
     "train.args.max_steps: int is needed (got 'many')"),
    (f"{TRAIN} --prefs p.jsonl --set args.learning_rate=fast --output-dir t",
     "train.args.learning_rate: float is needed (got 'fast')"),
    (f"{TRAIN} --prefs p.jsonl --set args.bf16=3 --output-dir t", "train.args.bf16: bool is needed (got '3')"),
    (f"{TRAIN} --prefs p.jsonl --set args.output_dir=x --output-dir t",
     "train.args.output_dir cannot be set: pass --output-dir"),
    (f"{TRAIN} --prefs p.jsonl --set args.eval_strategy=steps --output-dir t",
     "train.args.eval_strategy: there is nothing to evaluate on; pass --eval-prefs FILE"),
    (f"{TRAIN} --prefs p.jsonl --set args.load_best_model_at_end=true --output-dir t",
     "train.args: --load_best_model_at_end requires the save and eval strategy to match, "),
    (f"{TRAIN} --prefs p.jsonl --set max_target_tokens=1 --output-dir t",
     "no training example is left: 6 target_too_long"),
    ("train --model no/such --prefs p.jsonl --eval-prefs no.jsonl --output-dir t", "no.jsonl: no such file"),
    (f"{TRAIN} --prefs prompts.jsonl --prompt {{{{source}}}}: --output-dir t",
     "prompts.jsonl:1: it has its own prompt, so the template '{{source}}:' would not be used; leave the"),
    (f"{TRAIN} --prefs prompts.jsonl --set data.reference_columns=['a'] --output-dir t",
     "command line: unknown key 'reference_columns' (did you mean 'rejected_column'?); its keys are chosen_column,"),
    (f"{TRAIN} --prefs prompts.jsonl --set data.chosen_column=best --output-dir t",
     "prompts.jsonl:1: no column 'source'; the row has chosen, prompt, rejected; set source_column"),
    (f"{TRAIN} --prefs p.jsonl --tgt-lang fr --output-dir t",
     "the triplet's language is 'de', not 'fr' as given"),
    # export
    ("export no.jsonl --to trl --output x.jsonl", "no.jsonl: no such file"),
    ("export c.jsonl --to trl --output x.jsonl", "c.jsonl:1: these are candidates, not triplets"),
    ("export p.jsonl --to trl --output s.en", "s.en exists; pass --overwrite to replace it"),
    ("export p.jsonl --to trl --output x.jsonl --prompt {{src_code}}",
     "unknown field of a prompt 'src_code' (did you mean 'src_name'?); choose from source, src_name, tgt_name"),
    # run
    ("run no", "no: neither a file nor a shipped recipe; `mtcpo recipes` lists those"),
    ("run demmo", "demmo: neither a file nor a shipped recipe (did you mean 'demo'?); `mtcpo recipes` lists those"),
    ("run folder", "folder: neither a file nor a shipped recipe"),
    ("run r.de", "r.de: "),
    ("run latin1.en", "latin1.en: not UTF-8"),
    ("run empty.en", "empty.en: 'model' is missing"),
]  # fmt: skip


def test_a_package_that_an_option_needs_is_named_with_its_install_command(scored, capsys):
    """One line, and nothing left that would stand in the way of the next attempt."""
    for setting, module in (("args.optim=adamw_bnb_8bit", "bitsandbytes"), ("args.report_to=wandb", "wandb"),
                            ("args.deepspeed=no.json", "deepspeed")):  # fmt: skip
        if importlib.util.find_spec(module):
            continue
        line = mistake(capsys, *TRAIN.split(), "--prefs", "p.jsonl", "--set", setting, "--output-dir", "t")
        assert line.startswith("train.args: ")
        assert module in line
    line = mistake(capsys, *TRAIN.split(), "--prefs", "p.jsonl", "--set", "lora.target_modules=no", "--output-dir", "t")
    assert line.startswith("train.lora: ")
    assert run(capsys, *TRAIN.split(), "--prefs", "p.jsonl", "--output-dir", "t").code == 0


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_mistake_gets_one_line(scored, capsys, arguments, message):
    before = contents(scored)
    line = mistake(capsys, *arguments.replace("{{", "{").replace("}}", "}").split())
    assert message.format(here=scored) in line
    assert "CommandLineText" not in line
    assert contents(scored) == before


def test_a_missing_comet_directory_is_named(scored, capsys):
    pytest.importorskip("comet", reason="COMET is not installed")
    prefs = PREFS.replace("chrf", "comet:./no")
    before = contents(scored)
    evaluate = f"{EVALUATE} {HYPS} --metric comet:./no"
    for command in (f"{prefs} --output q.jsonl", evaluate, f"{evaluate} --output-dir e"):
        line = mistake(capsys, *command.split())
        assert line == f"{scored}/no: no such directory; a COMET directory has hparams.yaml and checkpoints/model.ckpt"
    assert contents(scored) == before


def test_an_output_in_a_folder_that_cannot_be_made_is_refused(here, capsys):
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    line = mistake(capsys, *f"{EVALUATE} --hyp a=r.de --output-dir /proc/none".split())
    assert line.startswith("/proc/none/evaluation.json: no ")
    assert line.endswith("; choose another output")


@pytest.mark.slow
def test_without_network_the_error_is_one_line_with_the_download_command(here):
    # In a process of its own: whatever the libraries print on import or by themselves would show here.
    outcome = call(*words("translate s.en --model mt5 --src-lang en --tgt-lang de --output c.jsonl"), cwd=here)
    assert (outcome.code, outcome.out, outcome.err) == (2, "", f"mtcpo: {NO_MODEL}\n")


# --- what commands do -----------------------------------------------------------------------------------------------


def test_help_names_every_command(capsys):
    outcome = run(capsys, "--help")
    assert outcome.code == 0
    for command in ("translate", "merge", "build-prefs", "train", "evaluate", "run", "export", "recipes", "doctor"):
        assert command in outcome.out
        assert run(capsys, command, "-h").code == 0
    assert run(capsys).code in (0, 2)  # the help too; older click calls it no mistake


def test_build_prefs_counts_what_it_drops(here, capsys):
    command = PREFS.replace("s.en", "gaps.en").split()
    outcome = run(capsys, *command, "--output", "p.jsonl")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (
        "p.jsonl: 4 triplets from 6 segments\n  dropped 2: empty_source\n"
        "  numbers: p-report.json; plots: p-report.html\n"
    )
    report = json.loads((here / "p-report.json").read_text(encoding="utf-8"))
    assert (report["kept"], report["dropped"]) == (4, {"empty_source": 2})
    triplets = list(read_triplets("p.jsonl"))
    assert [(t.chosen_system, t.rejected_system) for t in triplets] == [("b", "a")] * 4
    assert [t.id for t in triplets] == ["gaps.en:1", "gaps.en:2", "gaps.en:4", "gaps.en:5"]


def test_existing_output_is_replaced_only_with_overwrite(here, capsys):
    assert run(capsys, *PREFS.split(), "--output", "p.jsonl").code == 0
    before = contents(here)
    assert "p.jsonl exists" in mistake(capsys, *PREFS.split(), "--output", "p.jsonl")
    assert contents(here) == before
    (here / "p.jsonl").unlink()
    line = mistake(capsys, *PREFS.split(), "--output", "p.jsonl")  # its report is an output too
    assert line == "p-report.json exists; pass --overwrite to replace it, or choose another name"
    assert run(capsys, *PREFS.split(), "--output", "p.jsonl", "--overwrite").code == 0
    assert contents(here) == before


def test_a_refused_command_leaves_existing_output_alone(scored, capsys):
    before = contents(scored)
    line = mistake(capsys, *PREFS.split(), "--min-margin", "1000", "--output", "p.jsonl", "--overwrite")
    assert "no preference pair is left (below_margin: 6)" in line or "no preference pair is left" in line
    assert contents(scored) == before


def test_translate_counts_drops_and_ids_of_files_differ(here, capsys):
    command = words("translate s.en gaps.en --model mt5dir --src-lang en --tgt-lang de --set max_new_tokens=3")
    outcome = run(capsys, *command, "--output", "c.jsonl")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == "c.jsonl: 10 sources, 1 candidate each; dropped: 2 empty_source\n"
    (line,) = outcome.engines
    assert line.startswith("translating with transformers ")
    assert line.endswith(": for fewer than 512 sources, converting the model hardly pays\n")
    segments = list(read_segments(here / "c.jsonl"))
    assert [s.id for s in segments] == [f"s.en:{n}" for n in range(1, 7)] + [f"gaps.en:{n}" for n in (1, 2, 4, 5)]
    assert {c.system for s in segments for c in s.candidates} == {"mt5dir"} or len(segments[0].candidates) == 1


def test_shards_are_merged_to_the_file_of_one_command(here, capsys):
    assert run(capsys, *TRANSLATE.split(), "--output", "whole.jsonl").code == 0
    for shard, counts in (("1/2", "6 sources"), ("2/2", "0 sources")):
        outcome = run(capsys, *TRANSLATE.split(), "--shard", shard, "--output", f"{shard[0]}.jsonl")
        assert (outcome.code, outcome.out) == (0, f"{shard[0]}.jsonl: {counts}, 1 candidate each\n")
    outcome = run(capsys, *words("merge 2.jsonl 1.jsonl --output merged.jsonl"))
    assert (outcome.code, outcome.out) == (0, "merged.jsonl: 6 sources, 6 candidates\n")
    assert (here / "merged.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()
    assert "merged.jsonl exists; pass --overwrite" in mistake(
        capsys, *words("merge 2.jsonl 1.jsonl --output merged.jsonl")
    )
    line = mistake(capsys, *words("merge 1.jsonl --output m.jsonl"))
    assert line == "shard 2 of 2 is missing; give all of them"
    line = mistake(capsys, *words("merge whole.jsonl 1.jsonl --output m.jsonl"))
    assert line.startswith("whole.jsonl.shard.json: no such file; it belongs to the shard whole.jsonl")


def test_train_on_pairs_and_on_references(scored, capsys):
    outcome = run(capsys, *TRAIN.split(), "--prefs", "p.jsonl", "--output-dir", "t", "--eval-prefs", "p.jsonl")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "t: 6 examples, 2 steps\n"
    assert {"config.json", "model.safetensors", "canary.json", "metrics.jsonl", "training.json"} <= {
        path.name for path in (scored / "t").iterdir()
    }
    judged = words("--dev-source s.en --dev-reference r.de --src-lang en --tgt-lang de --dev-metric bleu")
    short = ["--set", "dev.decoding.max_new_tokens=3", "--set", "lora.r=2"]
    outcome = run(capsys, *TRAIN.split(), "--prefs", "p.jsonl", "--output-dir", "ta", *judged, *short)
    assert outcome.out == "ta: 6 examples, 2 steps\n  kept step 2, the best by bleu (0)\n"
    assert "step 2: bleu 0\n  source " in outcome.err
    command = ["translate", "s.en", "--model", "ta", "--src-lang", "en", "--tgt-lang", "de", "--output", "ta.jsonl"]
    assert run(capsys, *command, "--set", "max_new_tokens=3").code == 0  # adapters, by themselves
    references = words("--loss sft --source gaps.en --reference r.de --src-lang en --tgt-lang de")
    outcome = run(capsys, *TRAIN.split(), *references, "--output-dir", "t2")
    assert outcome.out == "t2: 4 examples, 2 steps; dropped: 2 empty_source\n"
    assert not list(scored.glob(".*"))


def test_evaluate_files_and_a_model(here, capsys):
    command = [*EVALUATE.split(), *HYPS.split(), "--metric", "bleu", "--set", "resamples=50"]
    outcome = run(capsys, *command, "--output-dir", "e")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("e/evaluation.json\ne/report.html\n")
    document = json.loads((here / "e/evaluation.json").read_text(encoding="utf-8"))
    systems = document["pairs"]["en-de"]["systems"]
    assert systems["b"]["metrics"]["chrf"]["score"] == pytest.approx(100)
    assert systems["b"]["versus"]["a"]["chrf"]["delta"] == pytest.approx(100 - systems["a"]["metrics"]["chrf"]["score"])
    assert sorted(p.name for p in (here / "e/translations/s/en-de").iterdir()) == ["a.txt", "b.txt", "segments.jsonl"]
    assert "evaluation.json exists" in mistake(capsys, *command, "--output-dir", "e")

    model = [*EVALUATE.split(), "--model", "mt5dir", "--set", "decoding.max_new_tokens=3", "--set", "resamples=50"]
    outcome = run(capsys, *model, "--output-dir", "m")
    assert (outcome.code, outcome.err) == (0, "")
    assert len((here / "m/translations/s/en-de").glob("*.txt").__next__().read_text().splitlines()) == 6
    made = json.loads((here / "m/evaluation.json").read_text(encoding="utf-8"))["made"]
    # The system has the name of the folder that the link `mt5dir` leads to.
    (engine,) = made["engines"].values()
    assert outcome.engines[0].startswith(f"translating with {engine}: ")


def test_mbr_in_translate_and_evaluate(here, capsys):
    short = ["--mbr", "chrf", "--num-candidates", "3"]
    command = words("translate s.en --model mt5dir --src-lang en --tgt-lang de --system tiny --output mbr.jsonl")
    outcome = run(capsys, *command, *short, "--set", "max_new_tokens=3")
    assert outcome.code == 0
    assert outcome.out == "mbr.jsonl: 6 sources, 1 candidate each, by MBR with chrf over 3 candidates\n"
    found = [json.loads(line) for line in (here / "mbr.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [[candidate["system"] for candidate in row["candidates"]] for row in found] == [["tiny"]] * 6

    model = [*EVALUATE.split(), "--model", "mt5dir", "--set", "decoding.max_new_tokens=3", "--set", "resamples=50"]
    outcome = run(capsys, *model, *short, "--metric", "bleu", "--output-dir", "mbr")
    assert " was decoded by minimum Bayes risk with chrF over 3 candidates (epsilon sampling)" in outcome.out
    [system] = json.loads((here / "mbr/evaluation.json").read_text())["pairs"]["en-de"]["systems"].values()
    signature = system["decoding"].pop("mbr_signature")
    assert signature.startswith("mbr:chrf|nrefs:1|")
    assert system["decoding"] == {"search": "epsilon sampling", "candidates": 3, "mbr": "chrf"}
    assert system["metrics"]["chrf"]["chose_outputs"] is True
    assert "chose_outputs" not in system["metrics"]["bleu"]
    assert "minimum Bayes risk with chrF" in (here / "mbr/report.html").read_text(encoding="utf-8")
    assert "did you mean 'chrf'" in mistake(capsys, *model, "--mbr", "crhf", "--output-dir", "x")
    assert "no --model" in mistake(capsys, *EVALUATE.split(), *HYPS.split(), "--mbr", "chrf", "--output-dir", "x")


def test_a_refused_command_leaves_no_folder_behind(here, capsys):
    before = contents(here)
    line = mistake(capsys, *EVALUATE.split(), "--hyp", "a=short.de", "--output-dir", "new/folder")
    assert "short.de" in line
    assert not (here / "new").exists()
    assert contents(here) == before


def test_help_lists_the_commands_in_order_and_untruncated(capsys):
    lines = run(capsys, "--help").out.split("Commands:\n")[1].splitlines()
    names = [line.split()[0] for line in lines]
    assert names == ["translate", "merge", "build-prefs", "train", "evaluate", "run", "export", "recipes", "doctor"]
    assert not [line for line in lines if line.endswith("...")]


def test_evaluate_resumes_after_translating(here, capsys, monkeypatch):
    from mtcpo.evaluation import systems as assessment
    from mtcpo.translation.engines.transformers import GenerateEngine

    model = [*EVALUATE.split(), "--model", "mt5dir", "--set", "decoding.max_new_tokens=3", "--set", "resamples=50"]
    assert run(capsys, *model, "--output-dir", "whole").code == 0

    def stop(*_):
        raise UserError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(assessment, "evaluate_outputs", stop)
        assert mistake(capsys, *model, "--output-dir", "m") == "stopped here"
    kept = list((here / "m/.translations").iterdir())
    assert sorted(path.suffix for path in kept) == [".json", ".jsonl"]
    # With other settings they are others.
    with monkeypatch.context() as patch:
        patch.setattr(GenerateEngine, "_texts", stop)
        assert mistake(capsys, *model, "--set", "decoding.num_beams=2", "--output-dir", "m") == "stopped here"
        assert run(capsys, *model, "--output-dir", "m").code == 0
    names = [path.name for path in (here / "m").iterdir()]
    assert ".translations" not in names
    assert sorted(names) == sorted(path.name for path in (here / "whole").iterdir())
    first, second = (next((here / folder / "translations/s/en-de").glob("*.txt")) for folder in ("whole", "m"))
    assert first.read_bytes() == second.read_bytes()


def test_evaluate_scores_submitted_systems_too(here, capsys):
    command = "evaluate --suite wmt22:de-en:A,B --test-set-dir wmt --submitted --each-reference --hyp mine=two.de"
    outcome = run(capsys, *command.split(), "--set", "resamples=20", "--output-dir", "e")
    assert (outcome.code, outcome.err) == (0, "")
    entry = json.loads((here / "e/evaluation.json").read_text(encoding="utf-8"))["pairs"]["de-en"]
    assert list(entry["systems"]) == ["mine", "Online-A"]
    assert list(entry["metrics"]) == ["bleu", "bleu-A", "bleu-B", "chrf", "chrf-A", "chrf-B"]
    assert entry["systems"]["Online-A"]["metrics"]["chrf-B"]["score"] == pytest.approx(100)
    assert sorted(path.name for path in (here / "e").iterdir()) == [
        "evaluation.json", "evaluation.md", "evaluation.tex", "report.html", "translations",
    ]  # fmt: skip
    # Without a system of one's own the submitted ones are ranked.
    alone = "evaluate --suite wmt22:de-en --test-set-dir wmt --submitted --metric chrf --set resamples=20"
    assert "Online-A" in run(capsys, *alone.split()).out


def test_an_empty_hypothesis_is_scored_and_reported(here, capsys):
    write_lines(here / "gap.de", [*lines_of("prefs.de", 5), ""])
    outcome = run(capsys, *EVALUATE.split(), "--hyp", "a=gap.de", "--set", "resamples=20", "--output-dir", "e")
    assert (outcome.code, outcome.err) == (0, "")
    system = json.loads((here / "e/evaluation.json").read_text(encoding="utf-8"))["pairs"]["en-de"]["systems"]["a"]
    assert system["empty"] == 1
    assert 0 < system["metrics"]["chrf"]["score"] < 100
    assert '<p class="text empty">empty</p>' in (here / "e/report.html").read_text(encoding="utf-8")


def test_exported_triplets_are_read_back_unchanged(scored, capsys):
    outcome = run(capsys, "export", "p.jsonl", "--to", "trl", "--output", "trl.jsonl")
    assert (outcome.code, outcome.out, outcome.err) == (0, "trl.jsonl: 6 rows\n", "")
    rows = [json.loads(line) for line in (scored / "trl.jsonl").read_text(encoding="utf-8").splitlines()]
    ours = list(read_triplets("p.jsonl"))
    assert rows == [{"prompt": t.source, "chosen": t.chosen, "rejected": t.rejected} for t in ours]
    back = list(read_triplets("trl.jsonl"))
    assert [(t.prompt, t.chosen, t.rejected) for t in back] == [(t.source, t.chosen, t.rejected) for t in ours]
    assert run(capsys, "export", "trl.jsonl", "--to", "trl", "--output", "again.jsonl").code == 0
    assert (scored / "again.jsonl").read_bytes() == (scored / "trl.jsonl").read_bytes()


def test_export_with_a_prompt(scored, capsys):
    template = "To {tgt_name}: {source}"
    assert run(capsys, "export", "p.jsonl", "--to", "trl", "--output", "t.jsonl.gz", "--prompt", template).code == 0
    with gzip.open(scored / "t.jsonl.gz", "rt", encoding="utf-8") as file:
        first = json.loads(file.readline())
    assert first["prompt"] == f"To German: {lines_of('prefs.en', 1)[0]}"


def test_recipes_are_listed_with_what_they_do(capsys):
    outcome = run(capsys, "recipes")
    assert outcome.code == 0
    listed = {line.split()[0]: line.split(None, 1)[1] for line in outcome.out.splitlines()}
    assert listed["demo"].startswith("A small mT5 from scratch")
    assert all(text and not text.startswith("#") for text in listed.values())


@pytest.mark.slow
def test_doctor_names_each_part_with_its_version(tmp_path):
    outcome = call("doctor", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    first, *parts = outcome.out.splitlines()
    assert first.startswith("mtcpo ")
    assert all(line.startswith(("ok  ", "missing  ", "broken  ")) for line in parts)
    assert any(line.startswith("ok       torch 2.") for line in parts)
    assert any(line.startswith("ok       CPU, ") or "GPU" in line for line in parts)
    assert len(parts) == len(REMEDIES) + 1


def test_an_unexpected_error_shows_its_traceback_and_exits_1(tmp_path):
    # A stamp that vanishes while it is read, a bug of ours, ...: any exception that no one foresaw.
    code = "import mtcpo.core.resources as s, mtcpo.cli.main as c\ndel s.resource_tomls\nc.main(['recipes'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "resource_tomls" in done.stderr


def test_an_ascii_terminal_and_a_closed_pipe_raise_no_error(here):
    command = [sys.executable, "-m", "mtcpo", *EVALUATE.split(), *HYPS.split()]
    ascii_only = ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, env=ascii_only, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "chrF" in done.stdout
    reading, writing_end = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "mtcpo", "recipes"], stdout=writing_end, stderr=subprocess.PIPE, text=True,
        cwd=here, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    os.close(writing_end)
    assert (done.returncode, done.stderr) == (1, "")


# --- the disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts a file system of some bytes."""
    with ExitStack() as stack:
        numbers = itertools.count()
        yield lambda size, options="": stack.enter_context(small_disk(tmp_path / f"disk{next(numbers)}", size, options))


def full(mounted, capsys, size, output, *arguments):
    """Run a command whose output goes to a disk that is too small; nothing may stay there under a final name."""
    disk = mounted(size)
    line = mistake(capsys, *arguments, disk / output)
    assert line == (
        f"{disk / output}: no space left on its disk; free some, or choose another output, and repeat the command"
    )
    return disk


def test_no_space_for_triplets_and_exports(scored, mounted, capsys):
    write_lines(scored / "big.en", lines_of("prefs.en", 600))
    write_lines(scored / "big.de", lines_of("prefs.de", 600))
    write_lines(scored / "other.de", lines_of("train.de", 600))
    command = (
        "build-prefs --source big.en --reference big.de --hyp a=big.de --hyp b=other.de --src-lang en --tgt-lang de"
    )
    command += " --metric chrf --workers 1 --output"
    assert not list(full(mounted, capsys, "64k", "p.jsonl", *command.split()).iterdir())
    assert run(capsys, *command.split(), "big.jsonl").code == 0
    assert not list(full(mounted, capsys, "16k", "t.jsonl", *words("export big.jsonl --to trl --output")).iterdir())


def test_no_space_for_candidates(scored, mounted, capsys):
    write_lines(scored / "big.en", lines_of("prefs.en", 60))
    command = "translate big.en --model mt5dir --src-lang en --tgt-lang de --set max_new_tokens=3 --output"
    disk = full(mounted, capsys, "8k", "c.jsonl", *command.split())
    assert not (disk / "c.jsonl").exists()


def test_no_space_for_a_model(scored, mounted, capsys):
    disk = full(mounted, capsys, "64k", "t", *TRAIN.split(), "--prefs", "p.jsonl", "--output-dir")
    assert not (disk / "t").exists()


def test_no_space_for_an_evaluation(here, mounted, capsys):
    disk = mounted("4k")
    line = mistake(capsys, *EVALUATE.split(), *HYPS.split(), "--set", "resamples=9", "--output-dir", disk / "e")
    assert line.startswith(f"{disk / 'e/evaluation.json'}: no space left on its disk; free some")
    assert not (disk / "e/evaluation.json").exists()


def test_an_output_without_write_permission_is_refused(scored, mounted, capsys):
    disk = mounted("64k", ",ro")
    for command in (
        [*PREFS.split(), "--output", disk / "p.jsonl"],
        [*TRANSLATE.split(), "--output", disk / "c.jsonl"],
        [*TRAIN.split(), "--prefs", "p.jsonl", "--output-dir", disk / "t"],
        [*EVALUATE.split(), *HYPS.split(), "--output-dir", disk],
        ["export", "p.jsonl", "--to", "trl", "--output", disk / "t.jsonl"],
        ["run", "demo", "--output-dir", disk / "run"],
    ):
        line = mistake(capsys, *command)
        assert line.endswith(f": no permission to write in {disk}; choose another output")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(scored, capsys):
    (scored / "closed").mkdir(mode=0o555)
    line = mistake(capsys, *PREFS.split(), "--output", "closed/p.jsonl")
    assert line == f"closed/p.jsonl: no permission to write in {scored / 'closed'}; choose another output"


def test_an_error_away_from_the_output_is_not_explained_as_one_of_the_disk(tmp_path):
    for error in (OSError(errno.EACCES, "no", "/etc/other"), FileNotFoundError(errno.ENOENT, "no", str(tmp_path))):
        with pytest.raises(type(error)), writing(tmp_path / "sub/out", overwrite=False):
            raise error


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "table"),
    [("build-prefs", METRICS), ("build-prefs", SELECTIONS), ("build-prefs", COMBINATIONS), ("evaluate", METRICS),
     ("train", LOSSES), ("train", ALIASES), ("translate", ALIASES)],
)  # fmt: skip
def test_help_has_a_line_for_each_entry_of_a_table(capsys, command, table):
    lines = run(capsys, command, "--help").out.splitlines()
    for name in table:
        assert [line for line in lines if line.startswith(f"  {name} ")], name
