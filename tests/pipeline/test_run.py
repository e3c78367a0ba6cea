"""A whole run on a tiny recipe: every file of a run directory, what is done again and what is not."""

import json
import re
import shutil
import subprocess

import pytest
from support.console import contents, lines_of, mistake, run, small_disk, write_lines
from support.pipelines import RECIPE, STAGES, write_recipe

from mtcpo.core.config import to_toml
from mtcpo.core.progress import set_verbosity
from mtcpo.data.file_formats.registry import read_row_file
from mtcpo.data.rows import read_segments
from mtcpo.data.triplets import read_triplets
from mtcpo.pipeline.recipe import load_recipe
from mtcpo.pipeline.recipe_stages import make_stages
from mtcpo.pipeline.stages import plan


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the recipe, its texts, and the finished run `out`; and what the run printed."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = write_recipe(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        said = []
        from mtcpo.pipeline.run import run_recipe

        run_recipe(load_recipe(recipe), folder / "out", False, said.append)
    return folder, said


@pytest.fixture
def done(finished, tmp_path, monkeypatch):
    """A copy of the finished folder to do harm to; the recipe still names the texts of the original."""
    folder, _ = finished
    shutil.copytree(folder / "out", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(
        re.sub(r"\b(train|prefs|test)(\.en|\.de)\"", rf'{folder}/\1\2"', RECIPE), encoding="utf-8"
    )
    return tmp_path


def ran(outcome):
    """The stages that a run did, and did not skip."""
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "{" not in outcome.out, "no dictionary of a library's"
    heads = [line for line in outcome.out.splitlines() if line.startswith("[")]
    assert len(heads) == len(STAGES)
    return [re.match(r"\[\d+/\d+\] ([^:]+):", line)[1] for line in heads if not line.endswith(" - already done")]


def again(capsys, *options):
    return run(capsys, "run", "tiny.toml", "--output-dir", "out", *options)


def test_quiet_prints_the_table_and_the_report(done, capsys):
    loud, quiet = again(capsys), again(capsys, "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    _, _, results = loud.out.partition("] report: one page with scores, plots and translations - already done\n")
    assert quiet.out == results
    assert quiet.out.endswith("out/report.html\n")
    set_verbosity()


# --- one run --------------------------------------------------------------------------------------------------------


def test_a_run_directory_has_every_file_of_the_design(finished):
    out = finished[0] / "out"
    for name in ("recipe.toml", "stamp.json", "candidates.jsonl", "scored.jsonl", "prefs.jsonl", "prefs-report.json",
                 "metrics.jsonl", "evaluation.json", "report.html", "model/config.json", "model/model.safetensors",
                 "model/canary.json", "model/tokenizer.json"):  # fmt: skip
        assert (out / name).stat().st_size, name
    translations = out / "translations/tiny/en-de"
    names = {"base.txt", "tuned.txt", "control.txt", "segments.jsonl"}
    assert {path.name for path in translations.iterdir()} == names
    assert all(len((translations / name).read_text(encoding="utf-8").splitlines()) == 5 for name in names)
    assert not list(out.rglob(".*")), "nothing unfinished is left"


def test_files_of_a_run_agree_with_each_other(finished):
    out = finished[0] / "out"
    candidates, scored = (list(read_segments(out / name)) for name in ("candidates.jsonl", "scored.jsonl"))
    assert [s.id for s in candidates] == [f"prefs.en:{n}" for n in range(1, 17) if n != 4]
    assert [s.id for s in scored] == [s.id for s in candidates]
    assert {len(s.candidates) for s in candidates} == {3}
    assert [c.system for c in candidates[0].candidates] == ["base-sample-1", "base-sample-2", "base-sample-3"]
    assert all(c.scores.keys() == {"chrf", "bleu"} for s in scored for c in s.candidates)
    triplets = list(read_triplets(str(out / "prefs.jsonl")))
    report = json.loads((out / "prefs-report.json").read_text(encoding="utf-8"))
    assert report["segments"] == 15
    assert report["kept"] == len(triplets) > 0
    by_id = {s.id: {c.text: c.scores for c in s.candidates} for s in scored}
    for t in triplets:
        assert t.chosen_scores == by_id[t.id][t.chosen]
        mean = {side: sum(scores.values()) / 2 for side, scores in (("w", t.chosen_scores), ("l", t.rejected_scores))}
        assert t.margin == pytest.approx(mean["w"] - mean["l"])
        assert t.margin > 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["stage"] for row in rows} == {"sft", "cpo", "control"}
    assert [row["step"] for row in rows if row["stage"] == "cpo" and "rewards/accuracies" in row] == [1, 2, 3]
    document = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    systems = document["pairs"]["en-de"]["systems"]
    assert list(systems) == ["base", "tuned", "control"]
    assert systems["tuned"]["versus"].keys() == {"base"}
    assert systems["tuned"]["metrics"]["chrf"]["chose_pairs"] is True
    assert "chose_pairs" not in systems["tuned"]["metrics"]["ter"]


def test_the_stamp_has_versions_seeds_hashes_and_times(finished):
    folder, _ = finished
    stamp = json.loads((folder / "out/stamp.json").read_text(encoding="utf-8"))
    assert list(stamp["stages"]) == STAGES
    assert {"python", "torch", "transformers", "sacrebleu", "numpy"} <= stamp["versions"].keys()
    assert {"mtcpo", "commit", "machine"} <= stamp.keys()
    assert all(record["seconds"] >= 0 for record in stamp["stages"].values())
    inputs = stamp["stages"]["translate"]["inputs"]
    assert inputs.keys() == {"base", str(folder / "prefs.en"), str(folder / "prefs.de")}
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in inputs.values())
    seeds = {name: record["figures"]["seed"] for name, record in stamp["stages"].items() if "seed" in record["figures"]}
    assert seeds == {"create": 0, "sft": 0, "translate": 0, "train": 0, "control": 0, "decode base": 0,
                     "decode tuned": 0, "decode control": 0, "evaluate": 12345}  # fmt: skip
    engines = {name for name, record in stamp["stages"].items() if "engine" in record["figures"]}
    assert engines == {"translate", "decode base", "decode tuned", "decode control"}
    assert stamp["stages"]["translate"]["figures"]["engine"].startswith("transformers ")
    for name in ("create", "sft", "translate"):
        assert stamp["stages"][name]["figures"]["dropped"] == {"empty_source": 1}


def test_each_stage_prints_its_figures(finished):
    _, said = finished
    text = "\n".join(said)
    assert said[0] == "[1/11] create: a new mt5 model with its own vocabulary"
    assert "examples 59, dropped 1 empty_source, steps 4" in text
    assert "segments 15, candidates 45, dropped 1 empty_source" in text
    assert "{" not in text, "no dictionary of a library's"


def test_the_resolved_recipe_has_the_same_plan(finished, tmp_path):
    folder, _ = finished
    recipe, resolved = load_recipe(folder / "tiny.toml"), load_recipe(folder / "out/recipe.toml")
    assert resolved == recipe
    assert (folder / "out/recipe.toml").read_text(encoding="utf-8") == to_toml(resolved)
    for out in (folder / "out", tmp_path):
        assert list(plan(make_stages(resolved, out), out)) == list(plan(make_stages(recipe, out), out))


# --- the second run -------------------------------------------------------------------------------------------------


def test_a_second_run_touches_no_file(done, capsys):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (done / "out").rglob("*")}
    assert ran(again(capsys)) == []
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (done / "out").rglob("*")} == before
    outcome = run(capsys, "run", "out/recipe.toml", "--output-dir", "out")
    assert ran(outcome) == []
    assert outcome.out.endswith("\nout/report.html\n")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (done / "out").rglob("*")} == before


def test_a_dry_run_prints_the_plan_and_writes_nothing(done, capsys):
    before = contents(done)
    outcome = run(capsys, "run", "tiny.toml", "--dry-run")
    assert [line.split("] ")[1].split(":")[0] for line in outcome.out.splitlines()] == STAGES
    assert all(line.endswith(" - to do") for line in outcome.out.splitlines())
    lines = again(capsys, "--dry-run", "--set", "train.beta=0.5").out.splitlines()
    assert lines[4] == "[5/11] train: base with loss sigmoid, beta 0.5, cpo_alpha 1 - changed"
    states = [line.rpartition(" - ")[2] for line in lines]
    assert states[:4] == ["done"] * 4
    assert states[5:7] == ["done"] * 2, "the control and the base know no beta"
    assert states[7] == "done, unless its inputs change"
    assert states[8] == "done"
    lines = run(capsys, "run", "tiny.toml", "--dry-run", "--set", "data.source=away.en").out.splitlines()
    assert [line.rpartition("missing: ")[2] for line in lines if "missing: " in line] == ["away.en"]
    assert contents(done) == before


def test_another_setting_redoes_the_stages_that_it_concerns(done, capsys):
    before = contents(done)
    line = mistake(capsys, "run", "tiny.toml", "--output-dir", "out", "--set", "train.beta=0.5")
    assert line == (
        f"{done / 'out/model'}: stage 'train' would write a different one (beta was 0.1 and is now 0.5); "
        "pass --overwrite to replace it, or choose another --output-dir"
    )
    assert contents(done) == before
    redone = ran(again(capsys, "--set", "train.beta=0.5", "--overwrite"))
    assert [name for name in redone if name != "evaluate"] == ["train", "decode tuned", "report"]
    assert "beta = 0.5" in (done / "out/recipe.toml").read_text(encoding="utf-8")
    assert ran(again(capsys, "--set", "train.beta=0.5")) == []


@pytest.mark.parametrize(
    ("setting", "first"),
    [
        ("sft.args.max_steps=2", "sft"), ("translate.seed=1", "translate"), ("prefs.min_margin=1", "prefs"),
        ("control.args.max_steps=2", "control"), ("evaluate.resamples=20", "evaluate"),
        ("evaluate.decoding.num_beams=1", "decode base"), ("model.create.seed=3", "create"),
    ],
)  # fmt: skip
def test_each_setting_concerns_the_stage_that_reads_it(done, capsys, setting, first):
    lines = again(capsys, "--dry-run", "--set", setting).out.splitlines()
    states = [line.rpartition(" - ")[2] for line in lines]
    assert STAGES[states.index("changed")] == first
    assert all(state == "done" for state in states[: STAGES.index(first)])


def test_selection_by_confidence_adds_logprobs_to_candidates(done, capsys):
    assert ran(again(capsys, "--overwrite", "--set", "prefs.select=confidence"))[:2] == ["translate", "prefs"]
    candidates = [row for _, row in read_row_file(done / "out/candidates.jsonl")]
    assert all(candidate["logprob"] < 0 for row in candidates for candidate in row["candidates"])
    assert list(read_row_file(done / "out/prefs.jsonl"))


def test_how_many_processes_score_changes_nothing(done, capsys):
    assert ran(again(capsys, "--set", "prefs.workers=1")) == []


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("candidates.jsonl", ["translate"]), ("scored.jsonl", ["prefs"]), ("prefs-report.json", ["prefs"]),
        ("evaluation.json", ["evaluate"]), ("report.html", ["report"]), ("new", ["create"]),
        ("translations/tiny/en-de/tuned.txt", ["decode tuned"]), ("base", ["sft", "report"]),
        ("translations/tiny/en-de/segments.jsonl", ["evaluate"]),
    ],
)  # fmt: skip
def test_a_deleted_output_is_made_again_as_it_was(done, capsys, output, expected):
    before = contents(done / "out")
    path = done / "out" / output
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert ran(again(capsys)) == expected
    after = contents(done / "out")
    timed = {"stamp.json", "report.html"} | {
        name for name in before if name.endswith(("metrics.jsonl", "training.json"))
    }
    assert {name: data for name, data in after.items() if name not in timed} == {
        name: data for name, data in before.items() if name not in timed
    }


def test_a_changed_input_is_named_and_only_later_stages_run(done, capsys, finished):
    folder, _ = finished
    test_set = done / "test.de"
    shutil.copy(folder / "test.de", test_set)
    recipe = (done / "tiny.toml").read_text(encoding="utf-8").replace(f"{folder}/test.de", str(test_set))
    (done / "tiny.toml").write_text(recipe, encoding="utf-8")
    ran(again(capsys, "--overwrite"))
    write_lines(test_set, ["Etwas anderes."] * 5)
    line = mistake(capsys, "run", "tiny.toml", "--output-dir", "out")
    assert f"({test_set} has changed)" in line
    redone = ran(again(capsys, "--overwrite"))
    assert set(redone) == {"decode base", "decode tuned", "decode control", "evaluate", "report"}


def test_systems_decoded_by_mbr_are_marked_in_evaluation_and_report(done, capsys):
    settings = ["--set", "evaluate.decoding.mbr=chrf", "--set", "evaluate.decoding.num_candidates=3"]
    redone = ran(again(capsys, "--overwrite", *settings))
    assert set(redone) == {"decode base", "decode tuned", "decode control", "evaluate", "report"}
    document = json.loads((done / "out/evaluation.json").read_text(encoding="utf-8"))
    (entry,) = document["pairs"].values()
    for system in entry["systems"].values():
        assert (system["decoding"]["mbr"], system["decoding"]["candidates"]) == ("chrf", 3)
        assert {name for name, score in system["metrics"].items() if score.get("chose_outputs")} == {"chrf"}
    assert "decoded by minimum Bayes risk with chrF over 3" in (done / "out/report.html").read_text(encoding="utf-8")
    away = ["--set", "evaluate.decoding.mbr=comet:./away"]
    assert "away: no such directory" in mistake(capsys, "run", "tiny.toml", "--output-dir", "new", *away)
    assert not list((done / "new").glob("*/*"))


# --- what must be refused before the work ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.args.optimm=x", "train.args.optimm: no such training argument (did you mean 'optim'?)"),
        ("sft.args.lr_scheduler_type=x", "train.args: x is not a valid SchedulerType"),
        ("control.args.optimm=x", "train.args.optimm: no such training argument"),
        ("data.source=no.en", "no.en: no such file"),
        ("data.references=[]", "no reference, and chrf needs one"),
        ("sft.data.references=[]", "no reference, and fine-tuning needs one"),
        ("sft.data.source=no.en", "no.en: no such file"),
        ('evaluate.suites=["wmt22:de-xx"]', "unknown language pair of wmt22 'de-xx'"),
        ('evaluate.metrics=["bluu"]', "unknown metric 'bluu' (did you mean 'bleu'?)"),
        (
            'evaluate.sets=[{name="../x",source="s",references=["r"],src_lang="en",tgt_lang="de"}]',
            "test set name '../x'",
        ),
        (
            'evaluate.sets=[{name="x",source="no.en",references=["r"],src_lang="en",tgt_lang="de"}]',
            "no.en: no such file",
        ),
        ("evaluate.sets=[]", "no test set to evaluate on"),
    ],
)
def test_a_mistake_that_concerns_a_later_stage_shows_before_the_first(done, capsys, setting, message):
    line = mistake(capsys, "run", "tiny.toml", "--output-dir", "new", "--set", setting)
    assert message in line
    assert not (done / "new").exists()


def test_a_folder_that_is_not_a_run_keeps_its_recipe(done, capsys):
    (done / "own").mkdir()
    (done / "own/recipe.toml").write_text("mine")
    line = mistake(capsys, "run", "tiny.toml", "--output-dir", "own")
    assert (
        line
        == "own/recipe.toml exists but was not written by `mtcpo run`; choose another --output-dir, or pass --overwrite"
    )
    assert (done / "own/recipe.toml").read_text() == "mine"


def test_an_output_directory_that_is_a_file_is_refused(done, capsys):
    assert mistake(capsys, "run", "tiny.toml", "--output-dir", "tiny.toml") == (
        "tiny.toml is a file, and a folder is needed; choose another output"
    )
    assert f"{done / 'tiny.toml'} is a file, not a folder" in mistake(
        capsys, "run", "tiny.toml", "--output-dir", "tiny.toml/x"
    )


@pytest.mark.slow
def test_candidates_of_the_data_need_no_translation(done, capsys):
    """[data] with hypotheses in place of [translate], and no [sft]: four stages fewer."""
    folder = done / "bare"
    folder.mkdir()
    for name in ("prefs.en", "prefs.de", "test.en", "test.de"):
        write_lines(folder / name, lines_of(name, 8))
    write_lines(folder / "other.de", lines_of("train.de", 8))
    (folder / "bare.toml").write_text(f"""
[model]
name = "{done / 'out/base'}"
[data]
source = "prefs.en"
references = ["prefs.de"]
hypotheses = {{ good = "prefs.de", bad = "other.de" }}
src_lang = "en"
tgt_lang = "de"
[prefs]
metrics = ["chrf"]
[train.args]
max_steps = 1
[evaluate]
metrics = ["chrf"]
resamples = 20
decoding = {{ num_beams = 1, max_new_tokens = 4 }}
[[evaluate.sets]]
name = "tiny"
source = "test.en"
references = ["test.de"]
src_lang = "en"
tgt_lang = "de"
""", encoding="utf-8")  # fmt: skip
    outcome = run(capsys, "run", folder / "bare.toml")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("runs/bare/report.html\n")
    assert {t.chosen_system for t in read_triplets(str(done / "runs/bare/prefs.jsonl"))} == {"good"}
    heads = [line.split("] ")[1].split(":")[0] for line in outcome.out.splitlines() if line.startswith("[")]
    assert heads == ["prefs", "train", "decode base", "decode tuned", "evaluate", "report"]


@pytest.mark.slow
def test_a_run_stopped_by_a_full_disk_resumes_with_more_space(done, capsys):
    with small_disk(done / "disk", "200k") as disk:
        command = ("run", "tiny.toml", "--output-dir", disk / "out")
        outcome = run(capsys, *command)
        assert (outcome.code, outcome.err) == (
            2,
            f"mtcpo: {disk / 'out'}: no space left on its disk; free some, or choose another output, and repeat the "
            "command\n",
        )
        assert not (disk / "out/report.html").exists()
        for number in range(2):  # a little more, which is still not enough, and then plenty
            subprocess.run(["mount", "-o", f"remount,size={(700, 9000)[number]}k", disk], check=True)
            outcome = run(capsys, *command)
        assert (outcome.code, outcome.err) == (0, "")
        assert "already done" in outcome.out
        for name in ("candidates.jsonl", "prefs.jsonl", "model/model.safetensors", "evaluation.json"):
            assert (disk / "out" / name).read_bytes() == (done / "out" / name).read_bytes()
