"""VQAv2's metric: what an answer is worth beside what ten people said (Goyal et al. 2017; Antol et al. 2015, §3.3), and the
spelling that answers are compared in.

The rules of spelling are those of the official evaluation (GT-Vision-Lab/VQA, vqaEval.py, in the form that MMF's
`EvalAIAnswerProcessor` has), oddities included, for a number that is compared with others' has to have them too. MMF's also cuts
an 's off its word; the official one does not, and an answer handed in so would match nobody's.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
            "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
_ARTICLES = ("a", "an", "the")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,+\d")
_PERIOD = re.compile(r"\.(?!\d)")  # "1.5" keeps its own
_PERIODS = 32  # as many are taken away at most: the reference passes re.UNICODE, which is 32, in place of a count

_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd
how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock oughtn't
'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll
who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
"""What is restored where one apostrophe is missing. Words that are others without it (we'll, she'd, it's) are not here."""


@lru_cache(2**20)  # people say the same things
def normalise_answer(answer: str) -> str:
    """An answer as it is compared: lower case, numbers up to ten in digits, no articles, no punctuation, apostrophes put back."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    words = (_NUMBERS.get(word, word) for word in _without_punctuation(answer).lower().split())
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_targets(answers: Sequence[str]) -> dict[str, float]:
    """What people said -> what each normalised answer is worth: .3, .6, .9 and 1 where 1, 2, 3 and more of ten agree.

    That is the mean, over the subsets that leave one person out, of min(1, matches / 3); not min(1, matches / 3) over all.

    Raises:
        ValueError: for fewer than two answers, of which none can be left out.
    """
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} answers; two at least are due, VQAv2 has ten")
    said, num = Counter(map(normalise_answer, answers)), len(answers)
    return {
        answer: ((num - matches) * min(1.0, matches / 3) + matches * min(1.0, (matches - 1) / 3)) / num
        for answer, matches in said.items()
    }


def vqa_accuracy(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """N predicted answers, and what people said to each question -> the mean of what the predictions are worth.

    Raises:
        ValueError: if there is no question, or not a prediction for each.
    """
    if len(predictions) != len(answers) or not answers:
        raise ValueError(
            f"{len(predictions)} predictions for {len(answers)} questions; give one for each, and one at least"
        )
    worth = (
        vqa_targets(said).get(normalise_answer(prediction), 0.0)
        for prediction, said in zip(predictions, answers, strict=True)
    )
    return sum(worth) / len(answers)


def _without_punctuation(answer: str) -> str:
    """A mark becomes a space between two letters, and nothing beside a space or in an answer with a comma in a number."""
    close = _COMMA_IN_NUMBER.search(answer) is not None
    left = answer
    for mark in _MARKS:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        left = left.replace(mark, "" if beside_space or close else " ")
    return _PERIOD.sub("", left, count=_PERIODS)


def _restored() -> dict[str, str]:
    """Every spelling with one apostrophe missing, and the full one."""
    found = {}
    for word in _CONTRACTED.split():
        places = [at for at, letter in enumerate(word) if letter == "'"]
        for at in places:
            found[word[:at] + word[at + 1 :]] = word
    return found | {"somebody'd": "somebodyd"}  # sic


_RESTORED = _restored()
