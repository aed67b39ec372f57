"""What was paid for is kept: after a kill, beside another process, on a full disk."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maple.errors import InputError
from maple.judging.endpoint import EndpointJudge
from maple.judging.judges import annotate
from maple.judging.styles import WEIGHTED
from maple.judging.verdicts import Verdicts, verdicts_file
from tests.maple.judging.fake_judge import KEY, Reply, likeliest, ranking
from tests.maple.judging.test_endpoint import judge_at, pairs


def test_a_second_run_asks_for_nothing(server):
    questions = pairs(*[f"No {n}." for n in range(20)])
    first = annotate(judge_at(server), questions)
    assert len(server.requests) == 20
    assert annotate(judge_at(server), questions) == first and len(server.requests) == 20
    lines = [json.loads(line) for line in verdicts_file().read_text().splitlines()]
    assert len(lines) == 20 and {line["judge"] for line in lines} == {first[0].annotator}


def test_equal_questions_are_asked_once(server):
    annotations = annotate(judge_at(server), pairs("No.") * 5)
    assert len(annotations) == 5 and len(server.requests) == 1


def test_another_question_model_style_or_server_is_another_verdict(server):
    server.always = likeliest(("m", -0.1))
    server.script = [ranking(1)] * 4
    for judge in (judge_at(server), EndpointJudge(server.url, "other"), EndpointJudge(server.url + "/v2", "other")):
        judge.judge("Why?", "Because.", "No.")
    judge_at(server).judge("Why?", "No.", "Because.")
    judge_at(server, WEIGHTED).judge("Why?", "Because.", "No.")
    assert len(server.requests) == 5


def test_what_a_judge_said_is_read_again_and_not_its_preference(server):
    judge = judge_at(server)
    judge.judge("Why?", "Because.", "No.")
    text = verdicts_file().read_text()
    verdicts_file().write_text(text.replace("'rank': 1", "'rank': 9").replace("'rank': 2", "'rank': 1"))
    verdict = judge_at(server).judge("Why?", "Because.", "No.")
    assert verdict.preference is None and len(server.requests) == 1


CHILD = """
import sys
from maple.judging import threads
from maple.judging.annotations import Output
from maple.judging.endpoint import EndpointJudge
from maple.judging.judges import annotate

threads.AT_ONCE = 1
pairs = [(Output("d", f"{n}?", "a", "r"), Output("d", f"{n}?", "b", "m")) for n in range(6)]
print(len(annotate(EndpointJudge(sys.argv[1], "m"), pairs)))
"""


def test_a_killed_run_keeps_what_it_paid_for(server):
    def run():
        child = subprocess.Popen([sys.executable, "-c", CHILD, server.url], stdout=subprocess.PIPE, text=True)
        children.append(child.pid)
        return child.communicate(timeout=60)[0], child.returncode

    children = []
    server.script = [*[ranking(1)] * 3, Reply(before=lambda: os.kill(children[0], signal.SIGKILL))]
    assert run() == ("", -signal.SIGKILL)
    assert len(server.requests) == 4 and len(verdicts_file().read_text().splitlines()) == 3
    assert run() == ("6\n", 0)
    assert len(server.requests) == 4 + 3  # the one that was under way, and the two after it


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_last_line_is_asked_again_and_the_others_stay(server, cut):
    questions = pairs("No.", "Yes.", "Maybe.")
    first = annotate(judge_at(server), questions)
    content = verdicts_file().read_bytes()
    verdicts_file().write_bytes(content[:-cut])
    assert [a.preference for a in annotate(judge_at(server), questions)] == [a.preference for a in first]
    assert len(server.requests) == 4
    annotate(judge_at(server), questions)
    assert len(server.requests) == 4
    assert verdicts_file().read_bytes().startswith(content[:-cut] + b"\n")


def test_lines_that_nobody_can_read_are_passed_over(tmp_path):
    path = tmp_path / "v.jsonl"
    Verdicts(path).put("a", "judge", "raw", 1.5)
    with path.open("ab") as file:
        file.write(b'\n[]\n5\n{"key": 1, "raw": "x", "seconds": 1}\n{"key": "b"}\n\xff\xfe\n' + b"[" * 100_000 + b"\n")
        file.write(b'{"key": "b", "raw": "x", "seconds": "soon"}\n{"key": "b", "raw": null, "seconds": 1}\n')
        file.write(b'{"key": "b", "raw": "x", "seconds": 1' + b"0" * 400 + b"}\n")
    Verdicts(path).put("c", "judge", "z", 2)
    again = Verdicts(path)
    assert (again.get("a"), again.get("b"), again.get("c")) == (("raw", 1.5), None, ("z", 2.0))


def test_what_another_process_was_told_is_known_at_once(tmp_path):
    ours, theirs = Verdicts(tmp_path / "v.jsonl"), Verdicts(tmp_path / "v.jsonl")
    assert ours.get("a") is None
    theirs.put("a", "judge", "raw", 1)
    assert ours.get("a") == ("raw", 1)
    (tmp_path / "v.jsonl").write_bytes(b"")  # somebody emptied it
    theirs.put("b", "judge", "r", 1)
    assert ours.get("b") == ("r", 1)


WRITER = """
import sys
from pathlib import Path
from maple.judging.verdicts import Verdicts

verdicts = Verdicts(Path(sys.argv[1]))
for n in range(60):
    verdicts.put(f"{sys.argv[2]}-{n}", "judge", "x" * 3000, n)
"""


def test_two_processes_write_whole_lines(tmp_path):
    path = tmp_path / "v.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    verdicts = Verdicts(path)
    assert all(verdicts.get(f"{name}-{n}") == ("x" * 3000, n) for name in "ab" for n in range(60))
    assert len(path.read_bytes().splitlines()) == 120


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch, server):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        InputError, match=r"verdicts\.jsonl: the judge's answers cannot be kept there \(Not a directory\)"
    ):
        annotate(judge_at(server), pairs("No."))


def test_a_full_disk_is_said_and_what_was_written_stays_readable(tmp_path, monkeypatch):
    verdicts = Verdicts(tmp_path / "v.jsonl")
    verdicts.put("a", "judge", "raw", 1)
    write = os.write

    def full(descriptor, line):
        write(descriptor, line[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InputError, match=r"cannot be kept there \(No space left on device\); make room"):
        verdicts.put("b", "judge", "raw", 1)
    monkeypatch.setattr(os, "write", write)
    assert verdicts.get("b") is None
    verdicts.put("b", "judge", "raw", 1)
    assert Verdicts(tmp_path / "v.jsonl").get("a") == Verdicts(tmp_path / "v.jsonl").get("b") == ("raw", 1)


def test_without_locks_it_is_kept_all_the_same(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    Verdicts(tmp_path / "v.jsonl").put("a", "judge", "raw", 1)
    assert Verdicts(tmp_path / "v.jsonl").get("a") == ("raw", 1)


def test_the_file_is_in_the_cache_and_holds_no_key(server, tmp_path):
    annotate(judge_at(server), pairs("No."))
    assert verdicts_file() == Path(tmp_path / "cache" / "maple" / "verdicts" / "verdicts.jsonl")
    assert KEY not in verdicts_file().read_text()
