"""Heat maps over rank and bits: of each task, of groups of languages, and of what is left of English."""

from __future__ import annotations

from collections.abc import Iterator

from maple.languages import HIGH, MID
from maple.reporting.figure import Figure
from maple.reporting.heat import PERCENT, POINTS, SHARE, rank_by_bits
from maple.reporting.paper_figures import COLOURS
from maple.reporting.published import CALLED, WIN_RATE
from maple.reporting.scores import GROUPS, Estimate, Scores
from maple.reporting.study import Cell

CHANCE = {"xnli": "one in three", "xcopa": "one in two"}
IN_WORDS = {
    "trained": "languages that were trained on",
    "untrained": "languages that were not trained on",
    "high": f"languages with high resources (classes {HIGH} and 5 of Joshi et al.)",
    "mid": f"languages with middle resources (class {MID} of Joshi et al.)",
    "low": f"languages with low resources (classes 0 to {MID - 1} of Joshi et al.)",
}


def figures(scores: Scores) -> Iterator[Figure | str]:
    """Each figure, or a sentence that says what it lacks."""
    for task in scores.study.tasks:
        if task != "belebele":  # it is figure 1
            yield of_task(scores, task)
    for group in GROUPS:
        yield of_group(scores, group)
    yield english(scores)


def of_task(scores: Scores, task: str) -> Figure | str:
    """The mean over the languages of a task."""
    unit = PERCENT if task == WIN_RATE else SHARE
    chance = f" By chance {CHANCE[task]} is right." if task in CHANCE else ""
    caption = f"The mean over languages and seeds.{chance} {scores.about_intervals} {COLOURS}"
    pairs = scores.of_task(task)
    title = f"{CALLED.get(task, task)} by rank and bits"
    made = rank_by_bits(scores, f"heat_{task}", title, caption, unit, lambda cells: scores.mean(cells, pairs))
    return made or f"{title}: no cell of the grid has scores of all its languages."


def of_group(scores: Scores, group: str) -> Figure | str:
    """The mean over tasks in a group of languages, which may be others with other data."""

    def mean(cells: list[Cell]) -> Estimate | None:
        trained = scores.trained(cells[0].source)
        of_data = group not in ("trained", "untrained") or trained
        return scores.mean(cells, scores.of_group(group, trained)) if of_data else None

    title = f"Mean over tasks in {IN_WORDS[group]}"
    caption = (
        "The mean over the languages of the group in each task, then over the tasks that have any of them, and over "
        f"seeds. Groups are of other tasks and questions, so their levels do not compare. {scores.about_intervals} "
    )
    made = rank_by_bits(scores, f"heat_{group}", title, caption + COLOURS, SHARE, mean)
    return made or f"{title}: no cell of the grid has scores of such."


def english(scores: Scores) -> Figure | str:
    """English over that of the base in the same bits."""
    title = "English kept or lost: difference to the base model"
    caption = (
        "The mean over tasks in English less that of the same model in the same bits before training, in percentage "
        f"points: below zero English was lost. The claims on English are of the level of the score, not of "
        f"this difference. {scores.about_intervals} {COLOURS}"
    )
    pairs = scores.of_languages(lambda language: language == "en")
    made = rank_by_bits(scores, "english", title, caption, POINTS, lambda cells: scores.gain(cells, pairs))
    return made or f"{title}: no cell of the grid and its base have scores in English."
