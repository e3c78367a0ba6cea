"""Stages by toy examples: what is done, what is done of something else, and what an interrupt leaves behind."""

import json

import pytest

from mtcpo.core.errors import UserError
from mtcpo.core.files import write_text
from mtcpo.pipeline.stages import check_may_run, plan, run_stages, unfinished
from mtcpo.pipeline.stamp import Stage, read_stamp


class Kitchen:
    """Two stages in a folder: `double` writes the number of number.txt twice, `report` writes what double has."""

    def __init__(self, folder):
        self.folder = folder
        self.run_folder = folder / "run"
        self.number = folder / "number.txt"
        self.number.write_text("7")
        self.settings = {"times": 2, "where": {"to": "here"}}
        self.ran = []
        self.interrupt = None  # "before" or "after" the output is written
        self.said = []

    @property
    def stages(self):
        doubled, report = self.run_folder / "doubled", self.run_folder / "report.txt"

        def double(overwrite):
            self.ran.append(("double", overwrite))
            if self.interrupt == "before":
                raise KeyboardInterrupt
            doubled.mkdir(parents=True, exist_ok=True)
            write_text(doubled / "value.txt", self.number.read_text() * self.settings["times"])
            write_text(doubled / "training.json", f"made the {len(self.ran)}th time")
            # As complete_folder does it: a folder of another identity takes the name.
            doubled.rename(aside := self.run_folder / "aside")
            copy = self.run_folder / "copy"
            copy.mkdir()
            for path in aside.iterdir():
                (copy / path.name).write_text(path.read_text())
                path.unlink()
            copy.rename(doubled)
            aside.rmdir()
            if self.interrupt == "after":
                raise KeyboardInterrupt
            return {"digits": 2, "dropped": {"odd": 1}, "seed": 5, "resumed_at": 0}

        def write(overwrite):
            self.ran.append(("report", overwrite))
            write_text(report, (doubled / "value.txt").read_text())
            return {}

        return [
            Stage("double", "twice the number", self.settings, (str(self.number), "hub/name"), (doubled,), double),
            Stage("report", "one page", [], (str(doubled / "value.txt"),), (report,), write, follows=True),
        ]

    def run(self, overwrite=False):
        """Run; return which stages did."""
        self.ran.clear()
        self.said.clear()
        self.run_folder.mkdir(exist_ok=True)
        check_may_run(self.stages, self.run_folder, overwrite)
        run_stages(self.stages, self.run_folder, overwrite, self.said.append)
        return [name for name, _ in self.ran]

    def states(self):
        return [line.rpartition(" - ")[2] for line in plan(self.stages, self.run_folder)]

    @property
    def stamp(self):
        return json.loads((self.run_folder / "stamp.json").read_text())


@pytest.fixture
def kitchen(tmp_path):
    return Kitchen(tmp_path)


def test_the_second_run_does_nothing(kitchen):
    assert kitchen.states() == ["to do", "to do"]
    assert unfinished(kitchen.stages, kitchen.run_folder) == {"double", "report"}
    assert kitchen.run() == ["double", "report"]
    assert kitchen.said == [
        "[1/2] double: twice the number", "      0 s - digits 2, dropped 1 odd", "[2/2] report: one page", "      0 s",
    ]  # fmt: skip
    before = (kitchen.run_folder / "stamp.json").stat().st_mtime_ns
    assert kitchen.states() == ["done", "done"]
    assert kitchen.run() == []
    assert kitchen.said[0] == "[1/2] double: twice the number - already done"
    assert (kitchen.run_folder / "stamp.json").stat().st_mtime_ns == before


def test_the_stamp_has_settings_inputs_and_versions(kitchen):
    kitchen.run()
    stamp = kitchen.stamp
    assert set(stamp) == {"mtcpo", "commit", "machine", "versions", "stages"}
    assert {"python", "torch", "transformers", "sacrebleu"} <= set(stamp["versions"])
    record = stamp["stages"]["double"]
    assert record["settings"] == {"times": 2, "where": {"to": "here"}}
    # printf 7 | sha256sum
    assert record["inputs"] == {
        str(kitchen.number): "7902699be42c8a8e46fbbb4501726517e86b22c56a189f7625a6da49081b2451",
        "hub/name": "not a file",
    }
    assert record["figures"] == {"digits": 2, "dropped": {"odd": 1}, "seed": 5, "resumed_at": 0}
    assert record["seconds"] >= 0
    assert stamp["stages"]["report"]["inputs"].keys() == {"doubled/value.txt"}


def test_another_setting_is_refused_by_name_and_then_redoes_its_stage(kitchen):
    kitchen.run()
    kitchen.settings = {"times": 3, "where": {"to": "here"}}
    assert kitchen.states() == ["changed", "done, unless its inputs change"]
    with pytest.raises(UserError) as error:
        kitchen.run()
    assert str(error.value) == (
        f"{kitchen.run_folder / 'doubled'}: stage 'double' would write a different one (times was 2 and is now 3); "
        "pass --overwrite to replace it, or choose another --output-dir"
    )
    assert kitchen.run(overwrite=True) == ["double", "report"]
    assert (kitchen.run_folder / "report.txt").read_text() == "777"


def test_every_change_is_counted_in_the_refusal(kitchen):
    kitchen.run()
    kitchen.settings = {"times": 2, "where": {"to": "there" * 20, "from": None}}
    kitchen.number.write_text("8")
    with pytest.raises(UserError, match=r"\(where.to was \"here\" and is now \"therethere[a-z]*\.\.\., and 1 more\)"):
        kitchen.run()


def test_an_unchanged_result_keeps_later_stages_done(kitchen):
    kitchen.run()
    kitchen.settings = {"times": 2, "where": {"to": "elsewhere"}}
    assert kitchen.run(overwrite=True) == ["double"]


def test_an_input_that_changed_is_named(kitchen):
    kitchen.run()
    kitchen.number.write_text("8")
    with pytest.raises(UserError, match=r"number.txt has changed\)"):
        kitchen.run()
    kitchen.number.write_text("7")  # the same bytes again: only content counts
    assert kitchen.run() == []


def test_only_the_deleted_output_is_made_again(kitchen):
    kitchen.run()
    (kitchen.run_folder / "report.txt").unlink()
    assert kitchen.run() == ["report"]
    for path in (kitchen.run_folder / "doubled").iterdir():
        path.unlink()
    (kitchen.run_folder / "doubled").rmdir()
    assert kitchen.states() == ["to do", "done, unless its inputs change"]
    assert kitchen.run() == ["double"]  # made again as it was, times in its log aside


def test_a_view_of_its_inputs_is_made_again_without_overwrite(kitchen):
    kitchen.run()
    (kitchen.run_folder / "doubled/value.txt").write_text("by hand")
    assert kitchen.states() == ["done", "changed"]
    assert kitchen.run() == ["report"]
    assert (kitchen.run_folder / "report.txt").read_text() == "by hand"


def test_output_without_a_record_is_not_replaced_without_overwrite(kitchen):
    (kitchen.run_folder / "doubled").mkdir(parents=True)
    (kitchen.run_folder / "doubled/mine.txt").write_text("mine")
    with pytest.raises(
        UserError, match=r"doubled: stage 'double' would write a different one \(there is no record of how"
    ):
        kitchen.run()
    assert (kitchen.run_folder / "doubled/mine.txt").read_text() == "mine"


def test_a_run_directory_may_be_moved(kitchen):
    kitchen.run()
    kitchen.run_folder = kitchen.run_folder.rename(kitchen.folder / "moved")
    assert kitchen.states() == ["done", "done"]


def test_a_stage_interrupted_before_its_output_is_to_do(kitchen):
    kitchen.interrupt = "before"
    with pytest.raises(KeyboardInterrupt):
        kitchen.run()
    assert kitchen.stamp["begun"]["stage"] == "double"
    kitchen.interrupt = None
    assert kitchen.run() == ["double", "report"]
    assert "begun" not in kitchen.stamp


def test_an_interrupt_between_output_and_stamp_loses_nothing(kitchen):
    kitchen.interrupt = "after"
    with pytest.raises(KeyboardInterrupt):
        kitchen.run()
    kitchen.interrupt = None
    assert kitchen.states() == ["done", "to do"]
    assert kitchen.run() == ["report"]
    assert kitchen.stamp["stages"]["double"]["seconds"] is None
    assert kitchen.run() == []


def test_an_interrupted_replacement_resumes_without_overwrite(kitchen):
    kitchen.run()
    kitchen.settings = {"times": 3}
    kitchen.interrupt = "before"
    with pytest.raises(KeyboardInterrupt):
        kitchen.run(overwrite=True)
    assert (kitchen.run_folder / "doubled/value.txt").read_text() == "77"  # the old one is there until the new is
    kitchen.interrupt = None
    assert kitchen.states()[0] == "to do"
    assert kitchen.run() == ["double", "report"]
    assert kitchen.ran[0] == ("double", True)


def test_an_interrupted_replacement_is_noticed_when_the_old_settings_return(kitchen):
    kitchen.run()
    kitchen.settings = {"times": 3}
    kitchen.interrupt = "before"
    with pytest.raises(KeyboardInterrupt):
        kitchen.run(overwrite=True)
    kitchen.settings, kitchen.interrupt = {"times": 2, "where": {"to": "here"}}, None
    assert kitchen.states() == ["done", "done"]
    kitchen.settings = {"times": 4}
    with pytest.raises(UserError, match="would write a different one"):
        kitchen.run()


def test_a_stage_with_half_of_its_outputs_is_to_do(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    ran = []

    def make(overwrite):
        ran.append(overwrite)
        first.write_text("a")
        if len(ran) == 1:
            raise KeyboardInterrupt
        second.write_text("b")
        return {}

    stages = [Stage("two", "two files", 1, (), (first, second), make)]
    with pytest.raises(KeyboardInterrupt):
        run_stages(stages, tmp_path, False, lambda line: None)
    run_stages(stages, tmp_path, False, lambda line: None)
    assert second.exists()
    second.unlink()
    run_stages(stages, tmp_path, False, lambda line: None)
    assert len(ran) == 3
    second.unlink()
    changed = [Stage("two", "two files", 2, (), (first, second), make)]
    with pytest.raises(UserError, match=r"a: stage 'two' would write a different one \(settings was 1 and is now 2\)"):
        check_may_run(changed, tmp_path, False)


def test_the_error_for_a_damaged_stamp_has_the_way_out(tmp_path):
    for text in ("", "[]", "{}", '{"stages": 3}'):
        (tmp_path / "stamp.json").write_text(text)
        with pytest.raises(
            UserError, match=r"stamp.json: not a stamp.json of mtcpo; delete it to run all stages again"
        ):
            read_stamp(tmp_path)
    assert read_stamp(tmp_path / "elsewhere") == {"stages": {}}
