"""Calibrations are fitted on an evaluation and judged by cross-validation."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, StorageError
from pipeline.evaluate.calibrate import calibrate, cross_validated
from pipeline.evaluate.measure import read_rows
from pipeline.evaluate.schema import EVALUATION
from pipeline.output.output import Output
from pipeline.output.settings import write_settings
from pipeline.quality.calibration import read_calibration
from pipeline.quality.ranking import FAILED_BELOW, auroc
from pipeline.review.reviews import import_reviews
from pipeline.schema import INDEX, SIGNALS
from pipeline.storage.files import Files

pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures("few_resamples")
FILES = Files()


@pytest.fixture(autouse=True)
def few_stumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice of their number takes nine tenths of the time; ``quality/test_calibration_fit.py`` tests it."""
    monkeypatch.setattr("pipeline.quality.calibration_fit.ROUNDS", (50,))


def signals_of(dice: float, rng: np.random.Generator) -> dict[str, Any]:
    signals: dict[str, Any] = {field.name: 0.5 for field in SIGNALS} | dict.fromkeys(("empty", "full", "constant"), False)
    return signals | {"soft_dice": dice + rng.normal(0, 0.02), "stray": 1 - dice + rng.normal(0, 0.03), "box_agreement": None}


def write_parquet(uri: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink)
    FILES.write(uri, sink.getvalue())


@pytest.fixture
def evaluated(fake_settings: dict[str, Any]) -> Callable[..., Output]:
    return partial(_evaluated, fake_settings)


def _evaluated(
    settings: dict[str, Any],
    folder: Path,
    photos: int = 120,
    per_photo: int = 3,
    mark: str = "",
    detected: bool = False,
    agreed: bool = False,
    **recipe: Any,
) -> Output:
    """Write an output with an evaluation of ``per_photo`` items per photo, a failed one, and one with a flag.

    ``mark`` ends the ids of all but the first item of a photo. With ``detected`` these have the score of a detector, and with
    ``agreed`` the agreement of two models.
    """
    rng, beside = np.random.default_rng(1), np.random.default_rng(2)
    output = Output.at(str(folder), FILES)
    rows = []
    for photo in range(photos):
        for number in range(per_photo):
            dice = float(np.clip(rng.normal(0.95 if photo % 3 else 0.8, 0.04), 0, 1))
            row = {
                "item_id": f"{photo}-{number}@{mark}" if number and mark else f"{photo}@{number}",
                "group": f"{photo}",
                "tags": ["cat", "dog"][photo % 2 :],
                "status": "ok",
            }
            rows.append(row | {"signals": signals_of(dice, rng), "dice_binary": dice, "quality": 0.5})
            if detected and number:
                rows[-1] |= {"detector_score": float(np.clip(dice - 0.4 + rng.normal(0, 0.02), 0, 1))}
            if agreed and number:
                rows[-1] |= {"agreement": float(np.clip(dice - 0.1 + beside.normal(0, 0.01), 0, 1))}
    rows.append({"item_id": "gone", "group": "gone", "status": "failed", "error_code": "fetch"})
    empty = {"signals": rows[0]["signals"] | {"empty": True}, "dice_binary": 0.0}
    rows.append(rows[0] | {"item_id": "flat", "group": "flat"} | empty)
    write_parquet(f"{output.layout.evaluation}/part-0.parquet", rows, EVALUATION)
    facts = {"weights_sha256": "a" * 64, "frame_px": 320} | recipe
    write_settings(output, settings | {"name": "model", "recipe": facts})
    return output


def test_every_item_is_fitted_on_and_judged(tmp_path: Path, evaluated: Callable[..., Output]) -> None:
    made = calibrate([evaluated(tmp_path, photos=120, per_photo=2, mark="blur")])
    about, judged = made.calibration.fitted_on, made.rankings["quality"].items
    assert (about["photos"], about["items"], judged) == (121, 241, 241)
    assert made.threshold is not None and made.threshold.items == 121, "without the corrupted copies"
    assert made.threshold.review_below == made.calibration.review_below
    assert about["threshold_ok"] == made.threshold.ok > 60
    assert made.by_tag["all"].items == judged and made.by_tag["plain"].items == made.threshold.items
    assert made.by_tag["plain"].ok == made.threshold.ok and made.by_tag["plain"].ok_failures == made.threshold.failures
    assert 0 < made.by_tag["cat"].items < judged
    assert made.rankings["quality"].numbers["auroc"].value > 0.9
    assert made.rankings["quality"].numbers["calibration_error"].value < 0.1
    assert made.calibration.weights_sha256 == "a" * 64 and made.calibration.frame_px == 320
    assert made.calibration.model == "model"
    assert read_calibration(made.calibration.as_json(), "x") == made.calibration


def test_rows_of_an_evaluation_are_judged_as_its_output_is(tmp_path: Path, evaluated: Callable[..., Output]) -> None:
    output = evaluated(tmp_path)
    rows = read_rows(f"{output.layout.evaluation}/part-0.parquet", FILES).to_pylist()
    measured = [row for row in rows if row["error_code"] is None]
    quality = cross_validated(measured)
    failed = np.array([row["dice_binary"] < FAILED_BELOW for row in measured])
    assert auroc(-quality, failed) == pytest.approx(calibrate([output]).rankings["quality"].numbers["auroc"].value)
    assert np.array_equal(cross_validated(measured), quality), "the choice is always the same"
    assert quality[[row["item_id"] for row in measured].index("flat")] == 0, "a flag"


def test_scores_of_one_detector_are_a_signal(tmp_path: Path, evaluated: Callable[..., Output]) -> None:
    one = evaluated(tmp_path / "one", photos=60, detected=True, detector={"weights_sha256": "d" * 64})
    made = calibrate([one]).calibration
    term = made.terms["detector_score"]
    assert made.detector_sha256 == "d" * 64
    assert term.adds[0] < term.adds[-1] and list(term.adds) == sorted(term.adds)
    assert read_calibration(made.as_json(), "x") == made
    other = evaluated(tmp_path / "other", photos=60, detected=True, detector={"weights_sha256": "e" * 64})
    made = calibrate([one, other]).calibration
    assert (made.detector_sha256, "detector_score" in made.terms) == (None, False)


SECOND = {"below": 1.0, "join": "replace", "recipe": {"weights_sha256": "b" * 64, "frame_px": 320}}


def test_the_agreement_of_two_models_is_a_signal_of_the_second_one(tmp_path: Path, evaluated: Callable[..., Output]) -> None:
    both = evaluated(tmp_path / "both", agreed=True, second=SECOND)
    made, plain = calibrate([both]), calibrate([evaluated(tmp_path / "plain")])
    assert (made.calibration.weights_sha256, made.calibration.first_sha256) == ("b" * 64, "a" * 64)
    assert made.calibration.fitted_on["items"] == made.rankings["quality"].items == 120 * 2, "the first saw the others"
    term = made.calibration.terms["agreement"]
    assert term.adds[0] < term.adds[-1] and list(term.adds) == sorted(term.adds)
    assert read_calibration(made.calibration.as_json(), "x") == made.calibration
    with_it, without = (one.rankings["quality"].numbers["spearman"].value for one in (made, plain))
    assert with_it > without + 0.01
    assert "agreement" not in plain.calibration.terms and plain.calibration.first_sha256 is None


def test_agreements_with_different_first_models_give_no_term(tmp_path: Path, evaluated: Callable[..., Output]) -> None:
    outputs = [
        evaluated(tmp_path / first, photos=60, agreed=True, weights_sha256=first * 64, second=SECOND) for first in ("a", "c")
    ]
    made = calibrate(outputs).calibration
    assert (made.weights_sha256, made.first_sha256, "agreement" in made.terms) == ("b" * 64, None, False)


def test_an_evaluation_of_an_older_version(tmp_path: Path, evaluated: Callable[..., Output]) -> None:
    part = f"{evaluated(tmp_path).layout.evaluation}/part-0.parquet"
    rows = pq.read_table(pa.BufferReader(FILES.read(part)))
    sink = io.BytesIO()
    pq.write_table(rows.drop_columns(["detector_score", "agreement"]), sink)
    FILES.write(part, sink.getvalue())
    assert read_rows(part, FILES).equals(rows)
    for name in ("detector_score", "agreement"):
        assert read_rows(part, FILES, ("item_id", name))[name].null_count == len(rows)


def test_reviews_count_for_items_that_were_not_measured(tmp_path: Path, evaluated: Callable[..., Output]) -> None:
    output = evaluated(tmp_path)
    rng = np.random.default_rng(2)
    rows = [
        {"item_id": name, "output_name": name, "status": "ok", "quality": 0.5, "signals": signals_of(dice, rng)}
        for name, dice in ((f"new-{number}", 0.97 if number % 2 else 0.8) for number in range(20))
    ]
    rows.append({"item_id": "0@0", "output_name": "0@0", "status": "ok", "signals": signals_of(0.9, rng)})
    write_parquet(f"{output.layout.index}/part-0.parquet", rows, INDEX)
    lines = [f"new-{number},{'accept' if number % 2 else 'reject'}" for number in range(20)]
    import_reviews("item_id,verdict\n0@0,reject\n" + "\n".join(lines), output)
    made = calibrate([output])
    assert made.reviews == 20 and made.rankings["quality"].items == 361, "only items with a Dice are judged"
    assert made.calibration.fitted_on["items"] == 381


def test_quantiles_are_those_of_ordinary_photos(tmp_path: Path, evaluated: Callable[..., Output]) -> None:
    plain = calibrate([evaluated(tmp_path / "plain", photos=120, per_photo=1)]).calibration
    assert plain.quantiles is not None and len(plain.quantiles) == 21
    assert list(plain.quantiles) == sorted(plain.quantiles)
    shares = [plain.share_below(quality) for quality in (-0.1, plain.quantiles[10], 1.1)]
    assert shares == [0, pytest.approx(0.5), 1]


@pytest.mark.parametrize("join", ["mean", "better"])
def test_masks_that_may_be_of_both_models_are_refused(tmp_path: Path, evaluated: Callable[..., Output], join: str) -> None:
    with pytest.raises(ConfigError, match=rf"recipe\.second\.join={join}, .* evaluate with recipe\.second\.join=replace"):
        calibrate([evaluated(tmp_path, agreed=True, second=SECOND | {"join": join})])


def test_items_that_the_second_model_did_not_see_say_nothing_about_it(tmp_path: Path, evaluated: Callable[..., Output]) -> None:
    with pytest.raises(ConfigError, match=r"neither metrics nor reviews of items that both models saw \(recipe\.second\.below"):
        calibrate([evaluated(tmp_path, second=SECOND)])


def test_all_outputs_must_be_of_one_model(tmp_path: Path, evaluated: Callable[..., Output]) -> None:
    with pytest.raises(ConfigError, match="different models"):
        calibrate([evaluated(tmp_path / "a"), evaluated(tmp_path / "b", frame_px=512)])
    both = calibrate([evaluated(tmp_path / "c"), evaluated(tmp_path / "d")])
    assert both.calibration.fitted_on["items"] == 2 * 361


def test_missing_or_damaged_evaluations_are_refused(tmp_path: Path, evaluated: Callable[..., Output]) -> None:
    output = evaluated(tmp_path)
    FILES.write(f"{output.layout.evaluation}/part-0.parquet", b"nothing")
    with pytest.raises(StorageError, match="run matteline evaluate again"):
        calibrate([output])
    FILES.delete(f"{output.layout.evaluation}/part-0.parquet")
    with pytest.raises(ConfigError, match="run matteline evaluate into it"):
        calibrate([output])
