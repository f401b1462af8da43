"""How many items must be looked at to say "at most this share is bad", and what the reviews then say.

The lot has N items, D of them bad; of n drawn without replacement X are bad: hypergeometric,
P(X <= c) = sum over k <= c of C(D, k)·C(N - D, n - k) / C(N, n). The plan is the least n for which a lot that is just too bad
passes with a chance of at most 1 - confidence. The upper bound on the bad share is Clopper's and Pearson's (Biometrika 26,
1934, 404-413), one-sided: the share p with P(X <= k) = 1 - confidence for a binomial X; for draws from a finite lot it is
on the safe side.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """``draw`` items of a ``lot`` are judged; it is accepted if at most ``allowed`` of them are bad."""

    lot: int
    at_most: float
    confidence: float
    allowed: int
    draw: int


def plan(lot: int, at_most: float, confidence: float, allowed: int = 0) -> Plan:
    """The least sample that shows, with this confidence, that at most this share of the lot is bad.

    Raises:
        ConfigError: a share or a confidence outside of (0, 1), or a lot that is too small to allow so many bad ones.
    """
    if not (0 < at_most < 1 and 0 < confidence < 1 and allowed >= 0):
        raise ConfigError(
            f"a sample needs 0 < at-most < 1, 0 < confidence < 1 and allowed >= 0, not {at_most:g}, {confidence:g}, {allowed}"
        )
    too_bad = math.floor(Fraction(str(at_most)) * lot) + 1
    if lot < 1 or too_bad > lot or allowed >= too_bad:
        raise ConfigError(
            f"a lot of {lot} items is too bad with {too_bad} bad ones, so {allowed} can't be allowed; "
            "allow fewer, or a larger share"
        )
    chance = 1 - Fraction(str(confidence))
    high = allowed + 1
    while high < lot and passes(lot, too_bad, high, allowed) > chance:
        high = min(2 * high, lot)
    low = high // 2
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if passes(lot, too_bad, middle, allowed) > chance else (low, middle)
    return Plan(lot, at_most, confidence, allowed, low)


def passes(lot: int, bad: int, draw: int, allowed: int) -> Fraction:
    """The exact chance that at most ``allowed`` of ``draw`` items are bad."""
    ways = sum(math.comb(bad, found) * math.comb(lot - bad, draw - found) for found in range(min(allowed, draw) + 1))
    return Fraction(ways, math.comb(lot, draw))


def drawn(ids: Iterable[str], count: int, seed: int) -> list[str]:
    """``count`` ids at random: those with the least keyed hashes, so the order in which they come doesn't matter."""
    key = hashlib.sha256(f"sample {seed}".encode()).digest()

    def lot_of(item_id: str) -> tuple[bytes, str]:
        return hashlib.blake2b(item_id.encode("utf-8", "surrogatepass"), key=key, digest_size=16).digest(), item_id

    return heapq.nsmallest(count, ids, key=lot_of)


def upper_bound(bad: int, judged: int, confidence: float) -> float:
    """Clopper's and Pearson's one-sided upper bound on the bad share, to 1e-12; 1 if all are bad or none was judged."""
    if bad >= judged:
        return 1.0
    low, high = bad / judged, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(bad, judged, middle) > 1 - confidence else (low, middle)
    return high


def _at_most(bad: int, judged: int, share: float) -> float:
    """P(X <= bad) for a binomial X, by logarithms of its terms."""
    if share >= 1:
        return 0.0
    whole = math.lgamma(judged + 1)
    return math.fsum(
        math.exp(
            whole
            - math.lgamma(found + 1)
            - math.lgamma(judged - found + 1)
            + (found * math.log(share) if found else 0.0)
            + (judged - found) * math.log1p(-share)
        )
        for found in range(bad + 1)
    )
