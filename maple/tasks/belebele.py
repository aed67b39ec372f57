"""Belebele (arXiv 2308.16884): which of four answers to a question on a passage is right.

900 questions in each of 122 language variants, the same in all; one split. The second answer is right 251 times: always
to say B scores 27.9 %.
"""

from __future__ import annotations

from maple.evaluation import metric
from maple.evaluation.fields import fields, one_of, text
from maple.evaluation.task import Choice, Example, HubFiles, Question, Setting, Task

# The two-letter code is the variant that is usually meant by it; the rest keep the script or ISO 639-3.
# fmt: off
LANGUAGES = {
    "acm": "acm_Arab", "af": "afr_Latn", "am": "amh_Ethi", "apc": "apc_Arab", "ar": "arb_Arab", "ar-Latn": "arb_Latn",
    "ars": "ars_Arab", "ary": "ary_Arab", "arz": "arz_Arab", "as": "asm_Beng", "az": "azj_Latn", "bg": "bul_Cyrl",
    "bm": "bam_Latn", "bn": "ben_Beng", "bn-Latn": "ben_Latn", "bo": "bod_Tibt", "ca": "cat_Latn", "ceb": "ceb_Latn",
    "ckb": "ckb_Arab", "cs": "ces_Latn", "da": "dan_Latn", "de": "deu_Latn", "el": "ell_Grek", "en": "eng_Latn",
    "es": "spa_Latn", "et": "est_Latn", "eu": "eus_Latn", "fa": "pes_Arab", "fi": "fin_Latn", "fr": "fra_Latn",
    "fuv": "fuv_Latn", "gn": "grn_Latn", "gu": "guj_Gujr", "ha": "hau_Latn", "he": "heb_Hebr", "hi": "hin_Deva",
    "hi-Latn": "hin_Latn", "hr": "hrv_Latn", "ht": "hat_Latn", "hu": "hun_Latn", "hy": "hye_Armn", "id": "ind_Latn",
    "ig": "ibo_Latn", "ilo": "ilo_Latn", "is": "isl_Latn", "it": "ita_Latn", "ja": "jpn_Jpan", "jv": "jav_Latn",
    "ka": "kat_Geor", "kac": "kac_Latn", "kea": "kea_Latn", "kk": "kaz_Cyrl", "km": "khm_Khmr", "kn": "kan_Knda",
    "ko": "kor_Hang", "ky": "kir_Cyrl", "lg": "lug_Latn", "ln": "lin_Latn", "lo": "lao_Laoo", "lt": "lit_Latn",
    "luo": "luo_Latn", "lv": "lvs_Latn", "mg": "plt_Latn", "mi": "mri_Latn", "mk": "mkd_Cyrl", "ml": "mal_Mlym",
    "mn": "khk_Cyrl", "mr": "mar_Deva", "ms": "zsm_Latn", "mt": "mlt_Latn", "my": "mya_Mymr", "nb": "nob_Latn",
    "ne": "npi_Deva", "ne-Latn": "npi_Latn", "nl": "nld_Latn", "nso": "nso_Latn", "ny": "nya_Latn", "om": "gaz_Latn",
    "or": "ory_Orya", "pa": "pan_Guru", "pl": "pol_Latn", "ps": "pbt_Arab", "pt": "por_Latn", "ro": "ron_Latn",
    "ru": "rus_Cyrl", "rw": "kin_Latn", "sd": "snd_Arab", "shn": "shn_Mymr", "si": "sin_Sinh", "si-Latn": "sin_Latn",
    "sk": "slk_Latn", "sl": "slv_Latn", "sn": "sna_Latn", "so": "som_Latn", "sq": "als_Latn", "sr": "srp_Cyrl",
    "ss": "ssw_Latn", "st": "sot_Latn", "su": "sun_Latn", "sv": "swe_Latn", "sw": "swh_Latn", "ta": "tam_Taml",
    "te": "tel_Telu", "tg": "tgk_Cyrl", "th": "tha_Thai", "ti": "tir_Ethi", "tl": "tgl_Latn", "tn": "tsn_Latn",
    "tr": "tur_Latn", "ts": "tso_Latn", "uk": "ukr_Cyrl", "ur": "urd_Arab", "ur-Latn": "urd_Latn", "uz": "uzn_Latn",
    "vi": "vie_Latn", "war": "war_Latn", "wo": "wol_Latn", "xh": "xho_Latn", "yo": "yor_Latn", "zh": "zho_Hans",
    "zh-Hant": "zho_Hant", "zu": "zul_Latn",
}
# fmt: on
LETTERS = ["A", "B", "C", "D"]
NUMBERS = ("1", "2", "3", "4")  # text in the files
ZERO_SHOT = (  # facebookresearch/belebele, sample_zero_shot_instructions.md
    "Given the following passage, query, and answer choices, output the letter corresponding to the correct answer."
)


def ask(example: Example) -> Choice:
    """The model is to continue with the letter."""
    answers = "".join(f"{letter}: {answer}\n" for letter, answer in lettered(example))
    context = f"P: {example['flores_passage']}\nQ: {example['question'].strip()}\n{answers}Answer:"
    return Choice(context, LETTERS, NUMBERS.index(example["correct_answer_num"]))


def ask_as_authors(example: Example) -> Question:
    """The prompt that the authors gave to instruction models."""
    answers = "".join(f"({letter}) {answer}\n" for letter, answer in lettered(example))
    prompt = (
        f"{ZERO_SHOT}\n###\nPassage:\n{example['flores_passage']}\n###\nQuery:\n{example['question']}\n###\n"
        f"Choices:\n{answers}###\nAnswer:\n"
    )
    return Question(prompt, [LETTERS[NUMBERS.index(example["correct_answer_num"])]])


def lettered(example: Example) -> list[tuple[str, str]]:
    """Each answer with its letter."""
    return [(letter, example[f"mc_answer{number}"]) for letter, number in zip(LETTERS, NUMBERS, strict=True)]


def letter_of(answer: str) -> str:
    """What is compared, as the authors have it: (A), A, The correct answer is A; else the first character."""
    answer = answer.strip().removeprefix("The correct answer is ")
    return answer.replace("(", "").replace(")", "").strip()[:1]


TASK = Task(
    name="belebele",
    languages=LANGUAGES,
    hub=HubFiles("facebook/belebele", "7899cdfa4e1e0d733fd77c848e2c273cb1d32be2", "data/{language}.jsonl"),
    check=fields(
        flores_passage=text,
        question=text,
        mc_answer1=text,
        mc_answer2=text,
        mc_answer3=text,
        mc_answer4=text,
        correct_answer_num=one_of(*NUMBERS),
    ),
    settings={
        "harness": Setting(ask, "lm-evaluation-harness 0.4.13, tasks/belebele, version 0.0", metric.choices),
        "mega": Setting(
            ask_as_authors,
            "Belebele's authors, zero-shot; MEGA has no prompt for it",
            metric.labels,
            delimiter="",
            max_new_tokens=20,  # ours, and MEGA's of other tasks: room for "The correct answer is (A)"
            clean=letter_of,
        ),
    },
    shots_split=None,
)
