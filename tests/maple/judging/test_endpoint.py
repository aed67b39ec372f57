"""A judge behind a server: what it is asked, and every way in which a server fails."""

import email.utils
import json
import socket
import ssl
import time
import traceback

import pytest

from maple.errors import InputError
from maple.judging import exchange
from maple.judging.annotations import Output, read_annotations, write_annotations
from maple.judging.endpoint import EndpointJudge, checked_url
from maple.judging.judges import annotate, is_turned
from maple.judging.styles import RANKING, WEIGHTED
from maple.judging.verdicts import verdicts_file
from tests.maple.judging.fake_judge import KEY, FakeJudge, Reply, content, likeliest, ranking, refusal


def judge_at(server, style=RANKING):
    return EndpointJudge(server.url, "gpt-4-0613", style=style)


def ask(server, style=RANKING):
    return judge_at(server, style).judge("Why?", "Because.", "No.")


def pairs(*outputs, instruction="Why?"):
    return [
        (Output("koala", f"{instruction} {n}", "Because.", "r"), Output("koala", f"{instruction} {n}", output, "m"))
        for n, output in enumerate(outputs)
    ]


# ------------------------------------------------------------------------------------------- what is asked


def test_the_request_of_each_style(server):
    assert ask(server).preference == 1
    assert server.paths == ["/v1/chat/completions"]
    assert server.requests[0] == {
        "model": "gpt-4-0613",
        "messages": RANKING.messages("Why?", "Because.", "No."),
        **{"max_tokens": 100, "temperature": 0, "top_p": 1.0},
    }
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    server.always = likeliest(("M", -0.1), ("m", -2.0))
    assert 1.8 < ask(server, WEIGHTED).preference < 2
    assert server.requests[1] == {
        "model": "gpt-4-0613",
        "messages": WEIGHTED.messages("Why?", "Because.", "No."),
        **{"max_tokens": 1, "temperature": 1, "top_p": 1.0, "logprobs": True, "top_logprobs": 5},
    }


def test_without_a_key_none_is_sent(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert ask(server).preference == 1 and "Authorization" not in server.headers[0]


def test_its_name_is_style_model_and_server(server):
    assert judge_at(server).name == f"alpaca_eval_gpt4 at gpt-4-0613 ({server.url})"


def test_the_model_is_shown_first_where_the_draw_says_so_and_its_preference_turned_back(server):
    questions = pairs(*[f"No {n}." for n in range(12)])
    server.always = ranking(1)  # whoever is first is better
    annotations = annotate(judge_at(server), questions)
    turned = [is_turned(reference.instruction) for reference, _ in questions]
    assert 0 < sum(turned) < 12
    assert [a.preference for a in annotations] == [2 if turn else 1 for turn in turned]
    shown = {request["messages"][1]["content"] for request in server.requests}
    for (reference, answer), turn in zip(questions, turned, strict=True):
        first, second = (answer, reference) if turn else (reference, answer)
        assert RANKING.messages(reference.instruction, first.output, second.output)[1]["content"] in shown
    assert all(a.annotator.startswith("alpaca_eval_gpt4 at") and a.time_per_example > 0 for a in annotations)


def test_words_that_are_no_verdict_are_kept_and_count_for_nothing(server):
    server.always = content("I like both of them.")
    [annotation] = annotate(judge_at(server), pairs("No."))
    assert (annotation.preference, annotation.raw_completion) == (None, "I like both of them.")
    assert ask(server).preference is None and ask(server).raw == "I like both of them."
    assert len(server.requests) == 2  # not asked again: it was paid for


def test_whatever_a_server_says_can_be_written_down(server, tmp_path):
    server.always = content("\ud800 \x00 \u202e")
    annotations = annotate(judge_at(server), pairs("No."))
    write_annotations(tmp_path / "a.json", annotations)
    assert read_annotations(tmp_path / "a.json") == annotations == annotate(judge_at(server), pairs("No."))


# ------------------------------------------------------------------------------------- what passes by itself

PASSING = {
    "too many requests": refusal(429, "Rate limit reached"),
    "server error": refusal(500, "The server had an error"),
    "overloaded": Reply(b"<html>503 Service Unavailable</html>", 503),
    "gateway": Reply(b"", 502),
    "timeout of a gateway": Reply(b"", 504),
    "request timeout": Reply(b"", 408),
    "reset": Reply(resets=True),
    "closed": Reply(closes=True),
    "truncated": Reply(ranking(1).body, lacks=10),
    "no JSON": Reply(b"<html>Please log in</html>"),
    "half of a JSON": Reply(ranking(1).body[:-5]),
    "not UTF-8": Reply(b"\xff\xfe"),
    "nested": Reply(b'{"choices": ' + b"[" * 100_000),
    "another shape": Reply(b'{"object": "list", "data": []}'),
    "a list": Reply(b"[]"),
    "no choices": Reply(b'{"choices": []}'),
    "null choices": Reply(b'{"choices": null}'),
    "nothing": Reply(b""),
    "no HTTP": Reply(raw=b"SSH-2.0-OpenSSH_9.6\r\n"),
    "too many headers": Reply(raw=b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"),
    "a wrong chunk": Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    "a missing chunk": Reply(raw=b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"cho\r\n'),
    "a length that is none": Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{"),
}


@pytest.mark.parametrize("reply", PASSING.values(), ids=PASSING)
def test_what_passes_by_itself_is_tried_again(server, clock, reply):
    server.script = [reply, reply]
    assert ask(server).preference == 1
    assert len(server.requests) == 3 and clock.slept == [1, 2]


@pytest.mark.parametrize("reply", PASSING.values(), ids=PASSING)
def test_what_does_not_pass_ends_in_one_sentence(server, clock, reply):
    server.always = reply
    with pytest.raises(InputError) as error:
        ask(server)
    text = str(error.value)
    assert text.startswith(server.url) and "verdicts so far are kept" in text and "\n" not in text and len(text) < 600
    assert f"{len(server.requests)} times" in text
    assert clock.slept == [1, 2, 4, 8, 16, 32, 64][: len(server.requests) - 1]
    assert not verdicts_file().exists()


def test_a_server_that_never_answered_is_given_up_sooner(clock):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(InputError, match=rf"^http://127.0.0.1:{port}/v1: ConnectionRefusedError: .*3 times"):
        EndpointJudge(f"http://127.0.0.1:{port}/v1", "m").judge("?", "a", "b")
    assert clock.slept == [1, 2]


def test_a_server_that_answered_and_went_away_is_waited_for(clock):
    with FakeJudge() as server:
        judge = judge_at(server)
        assert judge.judge("Why?", "Because.", "No.").preference == 1
    with pytest.raises(InputError, match="8 times"):
        judge.judge("Why?", "Because.", "Yes.")
    assert sum(clock.slept) == 127


@pytest.mark.parametrize("where", ["body", "headers"])
def test_an_answer_without_an_end_is_cut(server, monkeypatch, where):
    monkeypatch.setattr(exchange, "DEADLINE", 0.2)
    server.always = Reply(endless=where)
    with pytest.raises(InputError, match=r"no whole answer within 0.2 seconds, 3 times"):
        ask(server)


def test_an_answer_that_is_too_large_is_not_taken(server, monkeypatch):
    monkeypatch.setattr(exchange, "LARGEST", 100_000)
    server.always = Reply(endless="flood")
    with pytest.raises(InputError, match="an answer of more than 100000 bytes"):
        ask(server)
    server.always = Reply(b'{"choices": ["' + b"x" * 10**6 + b'"]}')
    with pytest.raises(InputError, match="an answer of more than 100000 bytes"):
        ask(server)


# ------------------------------------------------------------------------------------------ how long to wait


def test_the_server_says_how_long_to_wait(server, clock, monkeypatch):
    server.script = [refusal(429, "slow down", Retry_After="30"), refusal(503, "soon", Retry_After="0")]
    assert ask(server).preference == 1 and clock.slept == [30, 2]
    at = time.time() + 90
    server.script = [refusal(429, "slow down", Retry_After=email.utils.formatdate(at, usegmt=True))]
    judge_at(server).judge("Why?", "Because.", "Later.")
    assert 60 < clock.slept[2] <= 91


@pytest.mark.parametrize(
    "value", ["soon", "", "-5", "nan", "Wed, 99 Foo 2026", "Fri, 31 Dec 9999 23:59:59 -9999", "1e9"]
)
def test_a_time_that_is_none_is_not_waited_for(server, clock, value):
    server.script = [refusal(429, "slow down", Retry_After=value)]
    assert ask(server).preference == 1 and clock.slept == [1]


def test_nobody_waits_for_hours(server, clock):
    server.always = refusal(429, "Daily limit", Retry_After="86400")
    with pytest.raises(InputError, match=r"answers 429 and asks to wait 86400 seconds: .*Daily limit"):
        ask(server)
    assert clock.slept == [] and len(server.requests) == 1


def test_all_requests_wait_where_one_was_told_to(server, clock):
    judge = judge_at(server)
    server.script = [refusal(429, "slow down", Retry_After="50")]
    judge._pause.extend(1, 20)
    assert judge.judge("Why?", "Because.", "No.").preference == 1
    assert clock.slept == [20, 50]  # before it asked at all, and after


def test_eight_at_once_through_a_bad_time(server, clock):
    server.script = [refusal(429, "slow down"), Reply(resets=True), refusal(500, "oops"), refusal(503, "")] * 4
    questions = pairs(*[f"No {n}." for n in range(40)])
    annotations = annotate(judge_at(server), questions)
    assert {a.preference for a in annotations} == {1, 2} and len(server.requests) == 40 + 16


# --------------------------------------------------------------------------------------- what does not pass

REFUSED = {
    "key": (
        refusal(401, "Incorrect API key provided"),
        "answers 401: OPENAI_API_KEY is not its key (Incorrect API key",
    ),
    "rights": (refusal(403, "No access"), "answers 403: the key in OPENAI_API_KEY may not use the model gpt-4-0613"),
    "page": (
        Reply(b"Not Found", 404),
        "answers 404: no /chat/completions there, or no model gpt-4-0613; a URL ends in",
    ),
    "model": (refusal(404, "The model `gpt-4-0613` does not exist"), "(The model `gpt-4-0613` does not exist)"),
    "request": (
        refusal(400, "Unsupported parameter: 'max_tokens'"),
        "does not take a request as alpaca_eval_gpt4 makes",
    ),
    "fields": (Reply(b'{"detail": "Unprocessable"}', 422), '({"detail": "Unprocessable"})'),
    "money": (refusal(429, "You exceeded your current quota", "insufficient_quota"), "You exceeded your current quota"),
    "created": (Reply(b"", 201), "answers 201: "),
    "shape": (Reply(b'{"choices": [{"text": "1"}]}'), "reads message.content, which its answers lack: {"),
    "content": (content({"a": 1}), "reads message.content, which its answers lack"),
    "choice": (Reply(b'{"choices": ["1"]}'), "reads message.content, which its answers lack"),
}


@pytest.mark.parametrize(("reply", "words"), REFUSED.values(), ids=REFUSED)
def test_what_will_not_pass_is_said_at_once(server, clock, reply, words):
    server.always = reply
    with pytest.raises(InputError) as error:
        annotate(judge_at(server), pairs("No."))
    assert str(error.value).startswith(server.url) and words in str(error.value)
    assert len(server.requests) == 1 and clock.slept == []


def test_without_a_key_it_is_said_how_to_set_one(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server.always = refusal(401, "You didn't provide an API key")
    with pytest.raises(InputError, match="answers 401: set OPENAI_API_KEY to a key of this server"):
        ask(server)


def test_a_server_without_log_probabilities(server):
    for reply in (ranking(1), Reply(b'{"choices": [{"message": {"content": "m"}, "logprobs": null}]}')):
        server.always = reply
        with pytest.raises(
            InputError, match=r"weighted_alpaca_eval_gpt4_turbo reads logprobs.content, which its answers"
        ):
            ask(server, WEIGHTED)


@pytest.mark.parametrize("code", [None, "context_length_exceeded", "content_filter"])
def test_a_pair_that_the_model_cannot_read_is_no_verdict_and_does_not_end_the_others(server, code):
    said = "This model's maximum context length is 8192 tokens" if code is None else "No."
    server.script = [refusal(400, said, code)]
    annotations = annotate(judge_at(server), pairs("No.", "Yes.", "Maybe."))
    assert [a.preference for a in annotations].count(None) == 1
    assert said in {a.raw_completion for a in annotations}
    assert len(verdicts_file().read_text().splitlines()) == 2  # nothing was paid for it


def test_a_redirect_is_not_followed_and_its_target_gets_no_key(server):
    with FakeJudge() as other:
        for status in (301, 302, 307, 308):
            server.always = Reply(b"", status, {"Location": f"{other.url}/chat/completions"})
            with pytest.raises(InputError, match=rf"answers {status}, a redirect to {other.url}"):
                ask(server)
        assert other.paths == []


def test_a_certificate_that_nobody_signed(tmp_path, monkeypatch, clock):
    def untrusted(connection):
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "self-signed certificate"
        raise error

    monkeypatch.setattr("http.client.HTTPSConnection.connect", untrusted)
    with pytest.raises(InputError, match=r"not trusted \(self-signed certificate\); SSL_CERT_FILE"):
        EndpointJudge("https://localhost/v1", "m").judge("?", "a", "b")
    assert clock.slept == []


def test_https_where_the_server_speaks_http(server, clock):
    with pytest.raises(InputError, match=r"SSLError: .* 3 times"):
        EndpointJudge(server.url.replace("http:", "https:"), "m").judge("?", "a", "b")


def test_a_host_that_is_not_there(monkeypatch, clock):
    def lookup(error):
        def fail(*_, **__):
            raise socket.gaierror(error, "no")

        return fail

    monkeypatch.setattr(socket, "getaddrinfo", lookup(socket.EAI_NONAME))
    with pytest.raises(InputError, match=r"http://nowhere.invalid/v1/chat/completions: there is no such host"):
        EndpointJudge("http://nowhere.invalid", "m").judge("?", "a", "b")
    assert clock.slept == []
    monkeypatch.setattr(socket, "getaddrinfo", lookup(socket.EAI_AGAIN))
    with pytest.raises(InputError, match=r"cannot be looked up \(no\), 3 times"):
        EndpointJudge("http://nowhere.invalid", "m").judge("?", "a", "b")


# --------------------------------------------------------------------------------------------- the proxy


def test_a_proxy_of_the_environment_is_asked(server, monkeypatch):
    host = server.url.removeprefix("http://").removesuffix("/v1")
    monkeypatch.setenv("http_proxy", f"http://me:p%40ss@{host}")
    monkeypatch.setenv("no_proxy", "")
    assert EndpointJudge("http://judge.example:8000/v1", "m").judge("?", "a", "b").preference == 1
    assert server.paths == ["http://judge.example:8000/v1/chat/completions"]
    assert server.headers[0]["Proxy-Authorization"] == "Basic bWU6cEBzcw=="  # me:p@ss
    assert server.headers[0]["Host"] == "judge.example:8000"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert ask(server).preference == 1 and server.paths[1] == "/v1/chat/completions"


def test_a_proxy_for_https_makes_a_tunnel(monkeypatch):
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    connection, path, headers = exchange._route(exchange.urlsplit("https://api.example/v1/chat"), {"A": "b"})
    assert (connection.host, connection.port, path, headers) == ("proxy.example", 3128, "/v1/chat", {"A": "b"})
    assert (connection._tunnel_host, connection._tunnel_port) == ("api.example", 443)


# ----------------------------------------------------------------------------------------------- the key


def test_the_key_is_written_nowhere(server, capfd, caplog):
    caplog.set_level(0)
    echoes = [
        *(refusal(status, f"Incorrect API key provided: {KEY}.") for status in (400, 401, 403, 404, 429, 500)),
        Reply(KEY.encode(), 401),
        *(Reply(KEY.encode()), Reply(b"x" * 190 + KEY.encode()), Reply(b"x" * 190 + KEY.encode(), 400)),
        Reply(raw=KEY.encode() + b"\r\n\r\n"),
        Reply(b"", 307, {"Location": f"http://other.example/?key={KEY}"}),
        Reply(json.dumps({"choices": [{"message": KEY}]}).encode()),
    ]
    for reply in echoes:
        server.always = reply
        with pytest.raises(InputError) as error:
            ask(server)
        chain = "".join(traceback.format_exception(error.value))
        assert KEY[:8] not in chain
    server.always = content(f"[{{'model': 'model_1', 'rank': 2}}]  # {KEY}")
    verdict = ask(server)
    assert verdict.preference == 2 and verdict.raw.endswith("# ***")
    assert KEY not in verdicts_file().read_text() and KEY not in repr(judge_at(server)) + judge_at(server).name
    assert KEY not in "".join(capfd.readouterr()) + caplog.text


@pytest.mark.parametrize("key", [f"{KEY} x", f"{KEY}\r\nX-Other: 1", "schlüssel-0123456789"])
def test_a_key_that_is_none_is_refused_and_not_shown(server, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match=r"^OPENAI_API_KEY holds a blank or a character that no key has") as error:
        judge_at(server)
    assert key not in str(error.value)
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")  # as `export OPENAI_API_KEY="$(cat key.txt) "` leaves it
    ask(server)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_short_key_is_a_servers_placeholder_and_no_secret(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "model")
    assert ask(server).preference == 1 and "'model'" in ask(server).raw


# ----------------------------------------------------------------------------------------------- the URL


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1"),
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://[::1]:8000/", "http://[::1]:8000/v1"),
        ("HTTP://Host/api/v2", "http://Host/api/v2"),
    ],
)
def test_urls(url, checked):
    assert checked_url(url) == checked


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://host/v1", "http:///v1", "http://", "http://host:99999/v1", "http://host:x/v1", "http://ho st/v1"),
        *("http://host/v1\r\nX: y", "http://[::1/v1", f"http://{'a' * 300}/v1", "http://host/v1?key=SECRET"),
        *("https://me:SECRET@host/v1", "https://SECRET@host/v1", "http://host/#SECRET", "http://höst/ü"),
        "ftp://me:SECRET@host/v1",
    ],
)
def test_what_is_no_url_is_refused_without_showing_a_secret(url):
    with pytest.raises(InputError, match=r"^--judge") as error:
        checked_url(url)
    assert "SECRET" not in str(error.value) and "\n" not in str(error.value)
