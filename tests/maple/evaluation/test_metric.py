"""What the tasks are scored by, in the language of the text that the answer stands in."""

from maple.evaluation import metric


def test_what_the_tasks_are_scored_by():
    assert metric.mlqa("ar").names == ("exact_match", "f1", "exact_match_corrected", "f1_corrected")
    assert metric.mlqa("de-en").score("der Mann", ["Mann"])["exact_match"] == 1  # the context is German
    # MEGA normalises a prediction by MLQA's rules, and then both sides by SQuAD's: the German article stays in answers
    assert metric.mlqa_as_mega("de").score("der Mann", ["Mann"])["exact_match"] == 1
    assert metric.mlqa_as_mega("de").score("Mann", ["der Mann"])["exact_match"] == 0
    assert metric.squad_as_mega("zh").score("北京。", ["北京"])["exact_match"] == 1
    assert metric.squad("zh").score("北京。", ["北京"])["exact_match"] == 0
    assert metric.rouge("zh-Hant").score("北京大學", ["北京大學"])["rougeL"] == 1
