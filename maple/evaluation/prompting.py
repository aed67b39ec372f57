"""From an example to token ids: few-shot examples in front, the training's template around, the window's limit.

    text        instruction, shots, prompt                joined by the setting's own delimiters
    template    alpaca, bactrian, chat, or plain          what the adapter was trained with; plain adds nothing
    ids         context | continuation                    split as lm-evaluation-harness does

What is longer than the window first loses its shots, one by one, the farthest first, and then tokens from its left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from maple.data.prompts import prompt_text, writes_no_bos
from maple.errors import InputError
from maple.evaluation.task import Choice, Example, Question, Setting
from maple.tokenizer import check_vocabulary


@dataclass(frozen=True)
class Request:
    """What a model is given for one example."""

    number: int  # of the example in its language
    where: str
    asked: Choice | Question
    prompt: str  # all that was to be read, also what the window had no room for
    prefixes: list[list[int]]  # token ids: before each choice, or, once, before the answer
    continuations: list[list[int]]  # of each choice; none where the answer is generated
    shots: int  # those that it kept
    cut: bool  # whether tokens were lost on the left
    tokens: int  # of the prompt, before any was cut

    @property
    def length(self) -> int:
        """Tokens that the model reads at most in one text."""
        longest = max(map(len, self.continuations), default=0)
        return max(map(len, self.prefixes)) + longest

    @property
    def digest(self) -> str:
        """SHA-256 of the prompt and its choices, to tell whether two scores were asked for alike."""
        choices = self.asked.choices if isinstance(self.asked, Choice) else []
        return hashlib.sha256("\0".join([self.prompt, *choices]).encode()).hexdigest()


class Prompter:
    """Makes the requests of one task and language."""

    def __init__(
        self, task: str, setting: Setting, template: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
    ):
        self.setting, self.template, self.tokenizer = setting, template, tokenizer
        self.window, self.rows = config.max_position_embeddings, config.vocab_size
        if setting.max_new_tokens >= self.window:
            raise InputError(
                f"--tasks {task}: an answer of {setting.max_new_tokens} tokens alone does not fit the model's window "
                f"of {self.window}; give a smaller --max-tokens"
            )

    def request(self, number: int, example: Example, shots: Sequence[Choice | Question]) -> Request:
        """The request of an example. Raises InputError for a choice that alone does not fit the window."""
        asked, shots = self.setting.ask(example), list(shots)
        while True:
            prompt = self.text(asked, shots)
            request = self._encoded(number, example.where, asked, prompt, len(shots))
            if not (request.cut and shots):
                return request
            del shots[0]

    def text(self, asked: Choice | Question, shots: Sequence[Choice | Question]) -> str:
        """All that stands before the answer.

        Nothing, also under a template, where choices are whole texts, as the harness's of XNLI are: there is no
        instruction that a template could hold.
        """
        setting, turns = self.setting, []
        for shot in shots:
            turns += [_context(shot), shot.target]
        turns.append(_context(asked))
        if self.template != "chat":
            answered = (f"{question}{setting.delimiter}{answer}" for question, answer in _pairs(turns))
            turns = ["".join(f"{text}{setting.between}" for text in answered) + turns[-1]]
        if not any(turns):
            return ""
        if setting.instruction:
            turns[0] = f"{setting.instruction}{setting.between}{turns[0]}"
        return prompt_text(self.template, turns, self.tokenizer)

    def _encoded(self, number: int, where: str, asked: Choice | Question, prompt: str, shots: int) -> Request:
        if isinstance(asked, Question):
            context, continuations = self._ids(prompt)[0], []
            room = [self.window - self.setting.max_new_tokens]
        else:
            # training puts nothing between its template and an answer
            delimiter = self.setting.delimiter if self.template == "plain" or not prompt else ""
            context, continuations = self._pairs(prompt, [delimiter + choice for choice in asked.choices])
            # the last token is predicted and not read
            room = [self.window + 1 - len(ids) for ids in continuations]
        if min(room) < 1:
            raise InputError(
                f"{where}: an answer of {max(map(len, continuations))} tokens alone does not fit the model's window of "
                f"{self.window}"
            )
        check_vocabulary([token for ids in (context, *continuations) for token in ids], self.rows)
        prefixes = [context[-tokens:] for tokens in room]
        cut = len(context) > min(room)
        return Request(number, where, asked, prompt, prefixes, continuations, shots, cut, len(context))

    def _pairs(self, context: str, continuations: list[str]) -> tuple[list[int], list[list[int]]]:
        """(ids of the context, those of each continuation) by the rule of lm-evaluation-harness, api/model.py.

        Spaces at the end of a context belong to what follows. A continuation's ids are what the two together have
        behind the context's own; without any context BOS, else EOS, stands for it. Behind a template the rule is that
        of training, where a token that would span both is not made (`data/tokens.py`).
        """
        if not context:
            first = self.tokenizer.bos_token_id
            first = self.tokenizer.eos_token_id if first is None else first
            return [first], self.tokenizer(continuations, add_special_tokens=False)["input_ids"]
        if self.template == "plain":
            bare = context.rstrip()
            context, continuations = bare, [context[len(bare) :] + text for text in continuations]
        before, *wholes = self._ids(context, *(context + text for text in continuations))
        after = [whole[len(before) :] for whole in wholes]
        if self.template != "plain" and any(whole[: len(before)] != before for whole in wholes):
            after = self.tokenizer(continuations, add_special_tokens=False)["input_ids"]
        return before, after

    def _ids(self, *texts: str) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=writes_no_bos(self.template))["input_ids"]


def _context(asked: Choice | Question) -> str:
    return asked.context if isinstance(asked, Choice) else asked.prompt


def _pairs(turns: list[str]) -> zip:
    return zip(turns[:-1:2], turns[1::2], strict=True)
