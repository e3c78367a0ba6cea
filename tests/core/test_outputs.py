import errno
import os

import pytest
from filelock import FileLock

from mtcpo.core.errors import UserError
from mtcpo.core.outputs import writing


def test_a_new_output_is_locked_while_it_is_written_and_leaves_no_lock(tmp_path):
    output = tmp_path / "new" / "out.jsonl"
    with writing(output, overwrite=False):
        assert (output.parent / ".out.jsonl.lock").exists()
        with (
            pytest.raises(UserError, match=r"out\.jsonl: another mtcpo process is writing it; wait"),
            writing(output, overwrite=False),
        ):
            pass
        output.write_text("x")
    assert list(output.parent.iterdir()) == [output]


def test_processes_of_one_launch_share_the_lock_of_the_first(tmp_path, monkeypatch):
    with FileLock(tmp_path / ".model.lock"):
        monkeypatch.setenv("RANK", "1")
        with writing(tmp_path / "model", overwrite=False, folder=True):
            (tmp_path / "model").mkdir()
    assert (tmp_path / "model").is_dir()


def test_an_existing_output_needs_overwrite(tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("x")
    with pytest.raises(UserError, match="exists; pass --overwrite"), writing(output, overwrite=False):
        pass
    with writing(output, overwrite=True):
        pass


def test_an_output_that_is_an_input_is_refused_even_with_overwrite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text("x")
    inputs = [None, "no/data-set", "./p.jsonl"]
    with (
        pytest.raises(UserError, match="is also an input of this command and would be lost"),
        writing(tmp_path / "p.jsonl", overwrite=True, inputs=inputs),
    ):
        pass


def test_a_folder_is_not_accepted_for_a_file_nor_a_file_for_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a folder, and a file is needed"), writing(tmp_path, overwrite=True):
        pass
    with (
        pytest.raises(UserError, match="is a file, and a folder is needed"),
        writing(tmp_path / "file", overwrite=True, folder=True),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"file is a file, not a folder"),
        writing(tmp_path / "file" / "x" / "out.jsonl", overwrite=False),
    ):
        pass


def test_a_refused_command_leaves_no_folder_behind(tmp_path):
    with pytest.raises(UserError, match="^wrong$"), writing(tmp_path / "a" / "b" / "out.jsonl", overwrite=False):  # noqa: RUF043
        raise UserError("wrong")
    assert list(tmp_path.iterdir()) == []


def wrapped(error):
    """An error as safetensors raises it: of another kind, with the system's error as its cause."""
    wrapper = RuntimeError("Error while serializing")
    wrapper.__cause__ = error
    return wrapper


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"out\.jsonl: no space left on its disk; free some"),
        (wrapped(OSError(errno.EDQUOT, "Quota exceeded")), "no space left on its disk"),
        (RuntimeError("I/O error: Os { code: 28, kind: StorageFull }"), "no space left on its disk"),
        (PermissionError(errno.EACCES, "Permission denied"), r"out\.jsonl: cannot be written \(permission denied\)"),
    ],
)
def test_disk_errors_are_explained_wherever_they_hide(tmp_path, error, message):
    with pytest.raises(UserError, match=message), writing(tmp_path / "out.jsonl", overwrite=False):
        raise error


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), PermissionError(errno.EACCES, "Permission denied", os.devnull)]
)
def test_other_errors_are_raised_as_they_are(tmp_path, error):
    with pytest.raises(type(error)), writing(tmp_path / "out.jsonl", overwrite=False):
        raise error
