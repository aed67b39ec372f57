"""How a judge is asked and how its answer is read: two of AlpacaEval's annotators, to the letter.

The texts and settings are formats, from tatsu-lab/alpaca_eval (Apache-2.0), version 0.6.6, `evaluators_configs/`:
alpaca_eval_gpt4/alpaca_eval.txt and alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt, and the annotators' configs.yaml.
A changed word would be another annotator.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

# Characters that are kept of what a judge wrote; 100 tokens have some 500, and the five likeliest of one token as JSON
# some 600. What is longer is no verdict, and is not read as one: literal_eval takes long texts badly.
LONGEST = 4000


@dataclass(frozen=True)
class Style:
    """An annotator of AlpacaEval without its model: the request, and what its answer says."""

    name: str
    system: str
    user: str
    parameters: dict  # of the request, beside model and messages
    reads: str  # of a choice, for messages
    words: Callable[[dict], str]  # of a choice, what is kept; raises KeyError, TypeError or AttributeError for none
    preference: Callable[[str], float | None]  # that the kept words state: 1 for the answer that was shown first

    def messages(self, instruction: str, first: str, second: str) -> list[dict[str, str]]:
        """The conversation that asks which of two answers is better."""
        texts = {"{instruction}": instruction, "{output_1}": first, "{output_2}": second}
        # In one pass, so that an answer that itself holds "{output_2}" is shown as it is.
        user = re.sub(r"\{(instruction|output_1|output_2)\}", lambda found: texts[found[0]], self.user)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]


def _content(choice: dict) -> str:
    content = choice["message"]["content"]
    if content is not None and not isinstance(content, str):
        raise TypeError
    return (content or "")[:LONGEST]


def _ranking(words: str) -> float | None:
    """Of a Python list of {'model': 'model_1', 'rank': 1}: the rank of the answer shown first."""
    try:
        first, *_ = [entry for entry in ast.literal_eval(words) if entry["model"] == "model_1"]
        return float(first["rank"]) if first["rank"] in (1, 2) else None
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        return None


def _likeliest_tokens(choice: dict) -> str:
    if choice.get("finish_reason") == "content_filter":
        return ""
    return json.dumps([token["top_logprobs"] for token in choice["logprobs"]["content"]])[:LONGEST]


def _weighted(words: str) -> float | None:
    """Of the likeliest first tokens: 2 - p(m) / (p(m) + p(M)), where m was shown first; what is not among them: 0."""
    try:
        [likeliest] = json.loads(words)
        found = {entry["token"]: float(entry["logprob"]) for entry in likeliest if entry["token"] in ("m", "M")}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    highest = max(found.values(), default=-math.inf)
    if not math.isfinite(highest):
        return None
    first, second = (math.exp(found.get(token, -math.inf) - highest) for token in ("m", "M"))
    preference = 2 - first / (first + second)
    return preference if 1 <= preference <= 2 else None  # a NaN among the two


# AlpacaEval 1, the paper's. It was asked of gpt-4, and beside the reference text_davinci_003.
RANKING = Style(
    name="alpaca_eval_gpt4",
    system="You are a helpful assistant, that ranks models by the quality of their answers.",
    user='''\
I want you to create a leaderboard of different of large-language models. To do so, I will give you the instructions \
(prompts) given to the models, and the responses of two models. Please rank the models based on which responses would \
be preferred by humans. All inputs and outputs should be python dictionaries.

Here is the prompt:
{
    "instruction": """{instruction}""",
}

Here are the outputs of the models:
[
    {
        "model": "model_1",
        "answer": """{output_1}"""
    },
    {
        "model": "model_2",
        "answer": """{output_2}"""
    }
]

Now please rank the models by the quality of their answers, so that the model with rank 1 has the best output. Then \
return a list of the model names and ranks, i.e., produce the following output:
[
    {'model': <model-name>, 'rank': <model-rank>},
    {'model': <model-name>, 'rank': <model-rank>}
]

Your response must be a valid Python dictionary and should contain nothing else because we will directly execute it in \
Python. Please provide the ranking that the majority of humans would give.''',
    parameters={"max_tokens": 100, "temperature": 0, "top_p": 1.0},
    reads="message.content",
    words=_content,
    preference=_ranking,
)

# AlpacaEval 2. It was asked of gpt-4-1106-preview, and beside that model's own answers.
WEIGHTED = Style(
    name="weighted_alpaca_eval_gpt4_turbo",
    system="You are a highly efficient assistant, who evaluates and selects the best large language model (LLMs) based "
    "on the quality of their responses to a given instruction. This process will be used to create a leaderboard "
    "reflecting the most accurate and human-preferred answers.",
    user='''\
I require a leaderboard for various large language models. I'll provide you with prompts given to these models and \
their corresponding outputs. Your task is to assess these responses, and select the model that produces the best \
output from a human perspective.

## Instruction

{
    "instruction": """{instruction}""",
}

## Model Outputs

Here are the unordered outputs from the models. Each output is associated with a specific model, identified by a \
unique model identifier.

{
    {
        "model_identifier": "m",
        "output": """{output_1}"""
    },
    {
        "model_identifier": "M",
        "output": """{output_2}"""
    }
}

## Task

Evaluate the models based on the quality and relevance of their outputs, and select the model that generated the best \
output. Answer by providing the model identifier of the best model. We will use your output as the name of the best \
model, so make sure your output only contains one of the following model identifiers and nothing else (no quotes, no \
spaces, no new lines, ...): m or M.

## Best Model Identifier''',
    # The temperature is that of sampling: it changes nothing in the log-probabilities that are read.
    parameters={"max_tokens": 1, "temperature": 1, "top_p": 1.0, "logprobs": True, "top_logprobs": 5},
    reads="logprobs.content",
    words=_likeliest_tokens,
    preference=_weighted,
)

STYLES = {style.name: style for style in (RANKING, WEIGHTED)}
