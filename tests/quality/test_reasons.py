"""Every signal has a sentence that a person understands."""

from __future__ import annotations

from pipeline.quality.reasons import REASONS, explain
from pipeline.schema import SIGNALS


def test_every_signal_has_a_sentence_of_its_own() -> None:
    assert set(REASONS) == {field.name for field in SIGNALS} | {
        *("detector_score", "agreement", "object_changed", "object_missing")
    }
    assert len(set(REASONS.values())) == len(REASONS)


def test_sentences_contain_no_terms_of_the_trade() -> None:
    for sentence in REASONS.values():
        assert sentence[0].islower() and not sentence.endswith("."), sentence
        assert not {"dice", "iou", "logit", "contour", "frame", "alpha"} & set(sentence.lower().replace(",", "").split()), (
            sentence
        )


def test_an_unknown_reason_is_itself() -> None:
    assert explain("box_agreement") == "the mask disagrees with the box you asked for"
    assert explain("<b>new</b>") == "<b>new</b>"
