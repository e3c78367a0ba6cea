"""Windows that are shared by shards and processes, the files that shards become, and a full disk in between."""

import errno
import json
import shutil
import subprocess
import threading

import pytest
from support.console import small_disk
from support.translation import english_segments, quick_search

from mtcpo.core.errors import UserError
from mtcpo.core.processes import ALONE, Process
from mtcpo.translation import attendance
from mtcpo.translation import translate as translation
from mtcpo.translation.shards import merge_shards, parse_shard, record_path
from mtcpo.translation.translate import translate_to_file
from mtcpo.translation.windows import Part, Windows

SAMPLES = quick_search(sampling="epsilon", num_candidates=2, max_new_tokens=6)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(translation, "WINDOW", 4)


@pytest.fixture
def tiny(engine):
    return engine("mt5", sharpen=3.0)


# --- shards -----------------------------------------------------------------------------------------------------------


def test_windows_go_round_the_shards_and_within_a_shard_round_its_processes():
    parts = [Part(shard, 2, Process(rank, 2)) for shard in (0, 1) for rank in (0, 1)]
    owned = [[number for number in range(9) if part.is_mine(number)] for part in parts]
    assert owned == [[0, 4, 8], [2, 6], [1, 5], [3, 7]]


def test_a_shard_is_counted_from_one():
    assert [parse_shard("1/1"), parse_shard("2/4"), parse_shard("4/4")] == [(0, 1), (1, 4), (3, 4)]
    for wrong in ("0/4", "5/4", "2", "a/b", "1/0", "-1/4"):
        with pytest.raises(UserError, match=r"--shard .*: give the number of the shard and how many there are"):
            parse_shard(wrong)


@pytest.fixture
def shards(tiny, tmp_path):
    """The three shards of 17 sources, of which the second has 5, beside `whole.jsonl`."""
    translate_to_file(tiny, english_segments(17), SAMPLES, tmp_path / "whole.jsonl")
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path / "c.parquet"]
    sizes = []
    for shard, path in enumerate(paths):
        figures = translate_to_file(tiny, english_segments(17), SAMPLES, path, part=Part(shard, 3))
        sizes.append(figures["segments"])
    assert sizes == [8, 5, 4]
    return paths


def test_merged_shards_are_the_file_of_one_command(shards, tmp_path):
    total = merge_shards([shards[2], shards[0], shards[1]], tmp_path / "merged.jsonl")
    assert total == {"segments": 17, "candidates": 34}
    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_shards_that_do_not_belong_together_are_refused(shards, tiny, tmp_path):
    first, second, third = shards
    merged = tmp_path / "merged.jsonl"
    with pytest.raises(UserError, match="shard 2 of 3 is missing; give all of them"):
        merge_shards([first, third], merged)
    shutil.copy(first, tmp_path / "again.jsonl")
    with pytest.raises(UserError, match=r"again\.jsonl\.shard\.json: no such file; it belongs to the shard"):
        merge_shards([first, tmp_path / "again.jsonl"], merged)
    shutil.copy(record_path(first), record_path(tmp_path / "again.jsonl"))
    with pytest.raises(UserError, match=r"again\.jsonl: shard 1/3, as .*a\.jsonl; give one"):
        merge_shards([first, tmp_path / "again.jsonl", second, third], merged)
    with pytest.raises(UserError, match=r"a\.jsonl: shard 1/3, as .*a\.jsonl; give one"):
        merge_shards([first, first, second, third], merged)
    for name, segments, config in (
        ("settings.jsonl", english_segments(17), SAMPLES.model_copy(update={"seed": 1})),
        ("sources.jsonl", english_segments(17)[::-1], SAMPLES),
    ):
        translate_to_file(tiny, segments, config, tmp_path / name, part=Part(1, 3))
        with pytest.raises(UserError, match=rf"{name}: a shard of other sources, settings or model than .*a\.jsonl"):
            merge_shards([first, tmp_path / name, third], merged)
    assert not merged.exists()


def test_a_shard_whose_lines_are_not_those_of_its_record_is_refused(shards, tmp_path):
    lines = shards[0].read_text().splitlines(keepends=True)
    for changed, count in ((lines[:-1], 16), (lines[1:] + lines[:1], 17)):
        shards[0].write_text("".join(changed))
        with pytest.raises(UserError, match=f"not the sources that were translated .{count} instead of 17"):
            merge_shards(shards, tmp_path / "merged.jsonl")
    assert not (tmp_path / "merged.jsonl").exists()


def test_a_shard_may_be_empty(tiny, tmp_path):
    paths = [tmp_path / f"{shard}.jsonl" for shard in range(3)]
    for shard, path in enumerate(paths):
        translate_to_file(tiny, english_segments(5), SAMPLES, path, part=Part(shard, 3))
    assert paths[2].read_bytes() == b""
    assert merge_shards(paths, tmp_path / "merged.jsonl")["segments"] == 5


# --- processes, as threads: what they share are files and locks -------------------------------------------------------


def in_threads(engine, segments, output, ranks, count=2, **options):
    """Translate as some processes of a launch; return what each returned or raised."""
    results = {}

    def work(rank):
        part = Part(process=Process(rank, count))
        try:
            results[rank] = translate_to_file(engine, segments, SAMPLES, output, part=part, **options)
        except (UserError, KeyboardInterrupt) as error:
            results[rank] = str(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class CopyingEngine:
    """An engine whose translations are numbered copies, so that threads can use it at the same time."""

    name = system = "copying"

    def too_long(self, segments, config):
        return [False] * len(segments)

    def translate(self, segments, config, draw=0):
        from mtcpo.data.records import Candidate

        numbers = range(config.num_candidates)
        return [[Candidate("copy", f"{number} {segment.source}") for number in numbers] for segment in segments]


class DyingEngine(CopyingEngine):
    """Dies in the window of source 4."""

    def translate(self, segments, config, draw=0):
        if segments[0].id == "4":
            raise KeyboardInterrupt
        return super().translate(segments, config, draw)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_first_process_joins_what_all_have_translated(count, tmp_path):
    translate_to_file(CopyingEngine(), english_segments(17), SAMPLES, tmp_path / "one.jsonl")
    results = in_threads(CopyingEngine(), english_segments(17), tmp_path / "n.jsonl", range(count), count)
    assert results[0] == {"segments": 17, "candidates": 34, "resumed_at": 0}
    assert [results[rank] for rank in range(1, count)] == [{}] * (count - 1)
    assert (tmp_path / "n.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.jsonl", "one.jsonl"]


def test_the_first_process_notices_that_another_died_and_any_number_goes_on(tmp_path):
    output = tmp_path / "out.jsonl"
    results = in_threads(DyingEngine(), english_segments(17), output, range(2))
    assert results[0].startswith("process 2 of 2 ended before its sources were translated; what is finished is kept")
    assert not output.exists()
    assert Windows(output, Part()).numbers() == {0, 2, 4}
    figures = translate_to_file(CopyingEngine(), english_segments(17), SAMPLES, output)
    assert figures == {"segments": 17, "candidates": 34, "resumed_at": 9}


def test_a_process_that_never_comes_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(attendance, "PATIENCE_SECONDS", 0.3)
    for rank, message in ((0, "process 2 of 2 did not start before"), (1, "process 1 of 2 has not started there")):
        results = in_threads(CopyingEngine(), english_segments(17), tmp_path / f"{rank}.jsonl", [rank])
        assert message in results[rank]


def test_a_process_that_comes_when_the_output_is_written_has_nothing_to_do(tmp_path):
    output = tmp_path / "out.jsonl"
    translate_to_file(CopyingEngine(), english_segments(5), SAMPLES, output)
    assert in_threads(CopyingEngine(), english_segments(5), output, [1], overwrite=True) == {1: {}}
    assert list(tmp_path.iterdir()) == [output]


def test_other_settings_are_refused_by_all_processes_and_discarded_by_the_first_on_request(tmp_path):
    output = tmp_path / "out.jsonl"
    windows = Windows(output, Part())
    with windows.opened({"fingerprint": "other"}, overwrite=False):
        windows.write(0, english_segments(4), {"candidates": 0})
    refused = in_threads(CopyingEngine(), english_segments(9), output, range(2))
    assert all("an unfinished run with a different model or settings" in message for message in refused.values())
    results = in_threads(CopyingEngine(), english_segments(9), output, range(2), overwrite=True)
    assert results[0] == {"segments": 9, "candidates": 18, "resumed_at": 0}


# --- what is left behind ----------------------------------------------------------------------------------------------


def test_sources_fewer_than_before_are_refused(tmp_path):
    output = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        translate_to_file(DyingEngine(), english_segments(9)[::-1], SAMPLES, output)
    assert Windows(output, Part()).numbers() == {0}
    in_threads(DyingEngine(), english_segments(17), tmp_path / "two.jsonl", range(2))
    with pytest.raises(UserError, match=r"000002\.jsonl: the unfinished run had different sources"):
        translate_to_file(CopyingEngine(), english_segments(8), SAMPLES, tmp_path / "two.jsonl")


def test_a_full_disk_loses_nothing(tmp_path):
    with small_disk(tmp_path / "disk", "40k") as disk:
        output = disk / "out.jsonl"
        with pytest.raises(OSError, match="No space left") as refused:
            translate_to_file(CopyingEngine(), english_segments(40), SAMPLES, output)
        assert refused.value.errno == errno.ENOSPC
        finished = Windows(output, Part()).numbers()
        assert 2 <= len(finished) < 10
        for path in (disk / ".out.jsonl.windows").glob("*.jsonl"):
            assert json.loads(path.read_text().splitlines()[0])["segments"] == 4
        # Space for all windows, but not for the output beside them.
        subprocess.run(["mount", "-o", "remount,size=52k", disk], check=True)
        with pytest.raises(OSError, match="No space left"):
            translate_to_file(CopyingEngine(), english_segments(40), SAMPLES, output)
        assert Windows(output, Part(process=ALONE)).numbers() == set(range(10))
        assert not output.exists()
        subprocess.run(["mount", "-o", "remount,size=400k", disk], check=True)
        figures = translate_to_file(CopyingEngine(), english_segments(40), SAMPLES, output)
        assert figures == {"segments": 40, "candidates": 80, "resumed_at": 40}
        assert list(disk.iterdir()) == [output]
