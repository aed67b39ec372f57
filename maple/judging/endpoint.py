"""A judge behind an OpenAI-compatible server: GPT-4 itself, or any model that vLLM, `transformers serve`, ... serve."""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import re
import time
from dataclasses import replace
from http import HTTPStatus
from urllib.parse import urlsplit

from maple.errors import InputError
from maple.jsonfile import parse_object
from maple.judging import pause
from maple.judging.exchange import BRIEF, Answer, Failed, post
from maple.judging.judges import Verdict
from maple.judging.styles import RANKING, Style
from maple.judging.verdicts import Verdicts, verdicts_file

PAGE = "/chat/completions"
SHORTEST_KEY = 8  # characters; what is shorter is the "none" or "EMPTY" of a server that asks for no key
# Statuses after which the same request may do: a timeout, too early, too many; and whatever is the server's own fault.
TRANSIENT = {408, 425, 429}


class Declined(Exception):
    """The server does not judge this pair, and never will: too long for its model, or filtered."""


class EndpointJudge:
    """Asks a model at `url` (up to /v1) in a `style`, and keeps each answer that it was given.

    The key is read from the environment, sent to that server only, and written nowhere.
    """

    def __init__(self, url: str, model: str, api_key_env: str = "OPENAI_API_KEY", style: Style = RANKING):
        self.url = checked_url(url)
        self.model, self.style = model, style
        self.name = f"{style.name} at {model} ({self.url})"
        self._key_name = api_key_env
        self._key = _key_of(api_key_env)
        self._verdicts = Verdicts(verdicts_file())
        self._pause = pause.Pause()
        self._answered = False  # whether there is a server at all

    def judge(self, instruction: str, reference: str, output: str) -> Verdict:
        """The model's verdict; 1 where it prefers `reference`, which is shown first. Several threads may ask."""
        messages = self.style.messages(instruction, reference, output)
        request = {"model": self.model, "messages": messages, **self.style.parameters}
        asked = json.dumps([self.style.name, self.url, request], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()
        kept = self._verdicts.get(key)
        if kept is None:
            try:
                kept = self._ask(json.dumps(request).encode())
            except Declined as declined:
                return Verdict(None, str(declined), None)
            self._verdicts.put(key, self.name, *kept)
        raw, seconds = kept
        return Verdict(self.style.preference(raw), raw, seconds)

    def _ask(self, body: bytes) -> tuple[str, float]:
        """The words of the answer and the seconds it took, after as many tries as make sense."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        tried = 0
        while True:
            self._pause.wait()
            started = time.monotonic()
            try:
                answer = post(self.url + PAGE, body, headers)
                shown = self._hidden(answer.body.decode("latin-1")).encode("latin-1")  # each byte a character
                return self._words(replace(answer, body=shown)), time.monotonic() - started
            except Failed as failure:
                tried += 1
                # Nothing at that place has ever answered: the URL is wrong more likely than a server busy.
                if tried >= (failure.tries if self._answered else BRIEF):
                    raise InputError(
                        f"{self.url}: {self._hidden(str(failure))}, {tried} times; verdicts so far are kept: "
                        "once the server answers, the same run goes on from there with --resume"
                    ) from None  # the cause, too, may quote the server
                self._pause.extend(tried, failure.wait)

    def _words(self, answer: Answer) -> str:
        """What the judge wrote, by the style. Raises Failed, Declined or InputError where it wrote nothing."""
        self._answered = True
        if answer.status != HTTPStatus.OK:
            self._refuse(answer)
        try:
            choice = parse_object(answer.body, "its answer")["choices"][0]
        except (InputError, KeyError, TypeError, IndexError) as error:
            raise Failed(f"an answer that is none of a chat: {_said(answer)}", BRIEF) from error
        try:
            return self.style.words(choice)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.url}: {self.style.name} reads {self.style.reads}, which its answers lack: {_said(answer)}"
            ) from error

    def _refuse(self, answer: Answer) -> None:
        """Raise what an answer means that is none."""
        said, code, status = _said(answer), _error(answer).get("code"), answer.status
        named = f"{self.url} answers {status}"
        if status in TRANSIENT | set(range(500, 600)) and code != "insufficient_quota":
            wait = _retry_after(answer.headers.get("Retry-After", ""))
            if wait > pause.LONGEST:
                raise InputError(f"{named} and asks to wait {wait:.0f} seconds: run the same command then ({said})")
            raise Failed(f"status {status} ({said})", wait=wait)
        if code in ("context_length_exceeded", "content_filter") or "context length" in said:
            raise Declined(said)
        if 300 <= status < 400:
            target = self._hidden(answer.headers.get("Location", "nowhere"))
            raise InputError(f"{named}, a redirect to {target[:200]}: give the URL that answers itself")
        remedy = {
            401: f"{self._key_name} is not its key" if self._key else f"set {self._key_name} to a key of this server",
            403: f"the key in {self._key_name} may not use the model {self.model}",
            404: f"no {PAGE} there, or no model {self.model}; a URL ends in /v1",
        }.get(status, f"it does not take a request as {self.style.name} makes it")
        raise InputError(f"{named}: {remedy} ({said})")

    def _hidden(self, text: str) -> str:
        """What a server sent, without our key, should it repeat it."""
        return text.replace(self._key, "***") if len(self._key) >= SHORTEST_KEY else text


def checked_url(url: str) -> str:
    """The URL of a server up to its version, as it is written beside a win rate. Raises InputError for none."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018   it is looked at when it is asked for
        (parts.hostname or "").encode("idna")
    except ValueError as error:  # of which UnicodeError is one
        raise InputError(f"--judge: no URL ({error})") from error
    if parts.username is not None or parts.query or parts.fragment:
        raise InputError(
            "--judge: a URL with a password, ? or #, which would be written beside every win rate; give it up to /v1 "
            "and the key in OPENAI_API_KEY"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[^!-~]", url):
        raise InputError(f"--judge {url}: not of the form https://host/v1")
    path = parts.path.rstrip("/").removesuffix(PAGE) or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _key_of(name: str) -> str:
    key = os.environ.get(name, "").strip()
    if re.search(r"[^!-~]", key):
        raise InputError(f"{name} holds a blank or a character that no key has; set it again")
    return key


def _error(answer: Answer) -> dict:
    """The object `error` of an answer, as OpenAI has it; empty where there is none."""
    try:
        found = parse_object(answer.body, "").get("error")
    except InputError:
        return {}
    return found if isinstance(found, dict) else {"message": found}


def _said(answer: Answer) -> str:
    """The server's own words, their beginning."""
    text = _error(answer).get("message") or answer.body.decode("utf-8", errors="replace")
    return " ".join(str(text).split())[:200] or "without a word"


def _retry_after(value: str) -> float:
    """The seconds that a Retry-After header asks for, which holds them or a date; 0 where it holds neither."""
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):  # no date at all, or none that this machine counts to
        return 0.0
