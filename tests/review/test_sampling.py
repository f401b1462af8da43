"""Sample sizes match exact fractions, and bounds match the distribution that they invert."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from scipy.stats import beta

from pipeline.errors import ConfigError
from pipeline.review.sampling import draw, passes, percent, plan, upper_bound


@pytest.mark.parametrize("lot", [50, 137, 1000])
@pytest.mark.parametrize("at_most", [0.02, 0.1])
@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_a_plan_is_the_smallest_sufficient_sample(lot: int, at_most: float, allowed: int) -> None:
    bad = int(Fraction(str(at_most)) * lot) + 1
    if allowed >= bad:
        with pytest.raises(ConfigError, match="must be below the bad items that"):
            plan(lot, at_most, 0.95, allowed)
        return

    def pass_probability(draw: int) -> Fraction:  # items are drawn one by one
        chances = {0: Fraction(1)}
        for taken in range(draw):
            after: dict[int, Fraction] = {}
            for found, chance in chances.items():
                hit = Fraction(bad - found, lot - taken)
                after[found] = after.get(found, Fraction(0)) + chance * (1 - hit)
                if found < allowed:
                    after[found + 1] = after.get(found + 1, Fraction(0)) + chance * hit
            chances = after
        return sum(chances.values(), Fraction(0))

    made = plan(lot, at_most, 0.95, allowed)
    chance = Fraction(5, 100)
    assert passes(lot, bad, made.draw, allowed) <= chance < passes(lot, bad, made.draw - 1, allowed)
    if lot < 200:
        assert pass_probability(made.draw) == passes(lot, bad, made.draw, allowed)


def test_known_sizes() -> None:
    assert plan(10_000_000, 0.02, 0.95).draw == 149  # (1 - 0.02)^n <= 0.05
    assert plan(10_000_000, 0.05, 0.95).draw == 59  # NIST/SEMATECH's handbook
    assert passes(10, 3, 4, 1) == Fraction(comb(7, 4) + 3 * comb(7, 3), comb(10, 4))


def test_a_plan_is_described_in_words_of_everyday() -> None:
    assert plan(10_000, 0.02, 0.95).describe() == (
        "checks 147 of 10,000 items, drawn at random; if none of them is bad, "
        "at most 2 % of all 10,000 items are bad (95 % certain)"
    )
    assert "if at most 1 of them is bad" in plan(10_000, 0.02, 0.95, 1).describe()
    assert "if at most 2 of them are bad" in plan(10_000, 0.02, 0.95, 2).describe()
    assert plan(3, 0.1, 0.95).describe().startswith("checks all 3 items; if none of them is bad, at most 10 %")
    assert percent(0.025) == "2.5 %"


@pytest.mark.parametrize(("bad", "reviewed"), [(0, 149), (1, 149), (7, 60), (59, 60), (0, 1), (3, 20_000)])
def test_the_bound_is_clopper_and_pearsons(bad: int, reviewed: int) -> None:
    assert upper_bound(bad, reviewed, 0.95) == pytest.approx(beta.ppf(0.95, bad + 1, reviewed - bad), abs=1e-9)


def test_the_bound_is_one_if_all_are_bad_or_none_is_reviewed() -> None:
    assert upper_bound(5, 5, 0.95) == upper_bound(0, 0, 0.95) == 1


def test_a_sample_depends_on_its_seed_only() -> None:
    ids = [f"item-{number}" for number in range(1000)]
    assert draw(ids, 20, 1) == draw(reversed(ids), 20, 1) != draw(ids, 20, 2)
    assert draw(ids * 2, 20, 1) == draw(ids, 20, 1), "an id is drawn once, also if the index has it twice"
    assert sorted(draw(ids[:5] * 3, 20, 1)) == ids[:5]
    counts = [sum(int(item_id[5:]) < 500 for item_id in draw(ids, 100, seed)) for seed in range(50)]
    assert 45 < sum(counts) / 50 < 55


@pytest.mark.parametrize("settings", [(100, 0.0, 0.95), (100, 0.02, 1.0), (0, 0.02, 0.95)])
def test_impossible_samples_are_refused(settings: tuple[int, float, float]) -> None:
    with pytest.raises(ConfigError):
        plan(*settings)
