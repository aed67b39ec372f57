"""The way to a real server and back: `transformers serve` with a real model, which is no judge and babbles."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from maple.errors import InputError
from maple.judging.endpoint import EndpointJudge
from maple.judging.judges import annotate
from maple.judging.styles import WEIGHTED
from tests.maple.judging.test_endpoint import pairs

LONGEST_START = 60  # seconds for importing torch and transformers on a machine that does other things, too


@pytest.fixture(scope="module")
def chatting(stories, tmp_path_factory):
    """A copy of the model that has a chat template."""
    folder = tmp_path_factory.mktemp("model") / "stories"
    shutil.copytree(stories, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    path = folder / "tokenizer_config.json"
    template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The URL of a server that loads whatever model it is asked for."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [Path(sys.executable).with_name("transformers"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        server = subprocess.Popen(
            [*command, "--device", "cpu"], stdout=file, stderr=file, env=environment, start_new_session=True
        )
    try:
        wait_for(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):  # it did not start
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(server, url, log):
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + LONGEST_START
    while time.monotonic() < end and server.poll() is None:
        try:
            with direct.open(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"transformers serve did not start: {log.read_text()[-2000:]}")


def test_a_babbling_model_gives_no_verdict_and_its_words_are_kept(served, chatting):
    judge = EndpointJudge(served, str(chatting))
    annotations = annotate(judge, pairs("No.", "Yes.", "Because."))
    assert [a.preference for a in annotations] == [None, None, 1.5]
    babble = [a.raw_completion for a in annotations[:2]]
    assert all(isinstance(text, str) and len(text.split()) > 10 for text in babble)
    assert annotate(EndpointJudge(served, str(chatting)), pairs("No."))[0].raw_completion == babble[0]
    assert annotations[0].annotator == f"alpaca_eval_gpt4 at {chatting} ({served})"


def test_a_server_that_knows_no_log_probabilities_is_said_so(served, chatting):
    with pytest.raises(InputError, match=r"reads logprobs\.content, which its answers lack|answers 4\d\d: "):
        annotate(EndpointJudge(served, str(chatting), style=WEIGHTED), pairs("No."))
