"""VQA's score against the mean over the ten leave-one-out subsets written out, and the spelling rule by rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchflava.evaluation import normalise_answer, vqa_accuracy, vqa_targets


def leave_one_out(answer: str, said: list[str]) -> float:
    """The metric as its authors describe it, over answers that need no normalising."""
    scores = []
    for out in range(len(said)):
        others = said[:out] + said[out + 1 :]
        scores.append(min(1.0, sum(other == answer for other in others) / 3))
    return sum(scores) / len(scores)


@given(said=st.lists(st.sampled_from(["red", "blue", "yes", "2"]), min_size=2, max_size=12))
def test_equals_the_mean_over_the_subsets(said: list[str]) -> None:
    targets = vqa_targets(said)
    assert set(targets) == set(said)
    for answer in targets:
        assert targets[answer] == pytest.approx(leave_one_out(answer, said))


def test_of_ten_people() -> None:
    for matches, worth in enumerate((0.3, 0.6, 0.9, 1.0, 1.0), 1):
        said = ["cat"] * matches + [f"dog{i}" for i in range(10 - matches)]
        assert vqa_targets(said)["cat"] == pytest.approx(worth)


SPELLINGS = {
    " The  Cat\n": "cat",
    "a dog and AN owl": "dog and owl",
    "none": "0",
    "Ten men": "10 men",
    "eleven": "eleven",
    "dont": "don't",
    "couldnt've": "couldn't've",
    "couldn'tve": "couldn't've",
    "Couldntve": "couldntve",  # two are missing
    "yall'd've": "y'all'd've",
    "'ow'sat": "'ow's'at",
    "twas": "'twas",
    "well": "well",
    "im": "im",
    "somebody'd": "somebodyd",
    "it's": "it's",
    "dog's": "dog's",
    "black/white": "black white",
    "black / white": "black white",
    "t-shirt": "t shirt",
    "t- shirt": "t shirt",
    "(yes)": "yes",
    "yes!": "yes",
    "what?": "what",
    "1,000": "1000",
    "1,,000": "1000",
    "1,000 t-shirts": "1000 tshirts",
    "cat,dog": "cat dog",
    "cat, dog": "cat dog",
    "1.5": "1.5",
    "3.": "3",
    "st. john": "st john",
    "u.s.": "us",
    "10:30": "10:30",
    "$5": "$5",
    "100%": "100%",
    "": "",
}


@pytest.mark.parametrize(("written", "compared"), SPELLINGS.items())
def test_spelling(written: str, compared: str) -> None:
    assert normalise_answer(written) == compared


def test_both_sides_are_normalised() -> None:
    answers = [["two"] * 10, ["T-shirt", "t shirt", *["coat"] * 8]]
    assert vqa_accuracy(["2", "the t-shirt"], answers) == pytest.approx((1 + 0.6) / 2)
    assert vqa_accuracy(["3", "hat"], answers) == 0


def test_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="1 predictions for 2 questions"):
        vqa_accuracy(["a"], [["a"] * 10] * 2)
    with pytest.raises(ValueError, match="1 answers; two at least"):
        vqa_targets(["yes"])
