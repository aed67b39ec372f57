"""What MEGA does alike in its tasks (arXiv 2303.12528; its repository at 3e96bab).

It asks chat models and models that complete a text. Here it is the text that they complete: prompt and answer with one
line break between them, no stop text, and of what is written the first line. To chat models it sends an instruction
first and each example as a turn; the instruction stands in front of the text here, and a chat template makes turns.
"""

from __future__ import annotations

from maple.evaluation.task import Example, Question

SHOTS = 4  # mega/utils/parser.py
MAX_NEW_TOKENS = 20  # the same; its scripts/parameters.yaml has 150 for summaries
READING = (  # mega/prompting/instructions.py, of XQuAD and MLQA
    "You are an NLP assistant whose purpose is to solve reading comprehension problems. You will be provided questions "
    "on a set of passages and you will need to provide the answer as it appears in the passage. The answer should be "
    "in the same language as the question and the passage."
)
BEFORE_AN_ANSWER = "\n    "  # of a passage's question; the template is indented in its source


def first_line(answer: str) -> str:
    """Of what was written (mega/models/completion_models.py)."""
    return answer.strip().split("\n")[0]


def ask_about_passage(example: Example) -> Question:
    """A question of XQuAD or MLQA (mega/eval_qa_gptturbo.py, answer_given_context_and_question)."""
    prompt = (
        f"{example['context']}\n    Q: {example['question']}\n\n"
        "    Referring to the passage above, the correct answer to the given question is:"
    )
    return Question(prompt.strip(), example["answers"]["text"])
