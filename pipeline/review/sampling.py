"""Plan samples for acceptance sampling ("at most this share is bad"), and bound the share of bad items from their reviews.

A lot of N items has D bad ones. Of n items drawn without replacement X are bad: hypergeometric, P(X <= c) = sum over k <= c of
C(D, k)·C(N - D, n - k) / C(N, n). The plan is the smallest n for which a lot with just too many bad items passes with a
probability of at most 1 - confidence. The upper bound of the bad share is Clopper's and Pearson's (Biometrika 26, 1934,
404-413), one-sided: the share p with P(X <= k) = 1 - confidence for a binomial X. For draws from a finite lot it is
conservative.
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
    """Review ``draw`` of the ``lot`` items, and accept the lot if at most ``allowed`` of them are bad."""

    lot: int
    at_most: float
    confidence: float
    allowed: int
    draw: int

    @property
    def claim(self) -> str:
        """Return the conclusion from a passed sample: "at most 2 % of all 10,000 items are bad (95 % certain)"."""
        return f"at most {percent(self.at_most)} of all {self.lot:,} items are bad ({percent(self.confidence)} certain)"

    def describe(self) -> str:
        """Return what to check and what it shows, in one sentence for people."""
        drawn = "all" if self.draw == self.lot else f"{self.draw:,} of"
        how = "" if self.draw == self.lot else ", drawn at random"
        bad = "none of them is bad" if not self.allowed else f"at most {self.allowed:,} of them {_are(self.allowed)} bad"
        return f"checks {drawn} {self.lot:,} items{how}; if {bad}, {self.claim}"


def percent(share: float) -> str:
    """Format a share as a percentage: 0.025 is ``2.5 %``."""
    return f"{100 * share:.4g} %"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def plan(lot: int, at_most: float, confidence: float, allowed: int = 0) -> Plan:
    """Return the smallest sample that shows, with this confidence, that at most this share of the lot is bad.

    Raises:
        ConfigError: A share or confidence is outside (0, 1), or the lot is too small for ``allowed``.
    """
    if not (0 < at_most < 1 and 0 < confidence < 1 and allowed >= 0):
        raise ConfigError(
            f"a sample needs 0 < at-most < 1, 0 < confidence < 1 and allowed >= 0, not {at_most:g}, {confidence:g}, {allowed}"
        )
    too_many = math.floor(Fraction(str(at_most)) * lot) + 1
    if lot < 1 or too_many > lot or allowed >= too_many:
        raise ConfigError(
            f"--allowed {allowed} must be below the bad items that --at-most {at_most:g} rejects ({too_many} of {lot}); "
            "lower --allowed or raise --at-most"
        )
    chance = 1 - Fraction(str(confidence))
    high = allowed + 1
    while high < lot and passes(lot, too_many, high, allowed) > chance:
        high = min(2 * high, lot)
    low = high // 2
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if passes(lot, too_many, middle, allowed) > chance else (low, middle)
    return Plan(lot, at_most, confidence, allowed, low)


def passes(lot: int, bad: int, draw: int, allowed: int) -> Fraction:
    """Return the exact probability that at most ``allowed`` of ``draw`` items are bad."""
    ways = sum(math.comb(bad, found) * math.comb(lot - bad, draw - found) for found in range(min(allowed, draw) + 1))
    return Fraction(ways, math.comb(lot, draw))


def draw(ids: Iterable[str], count: int, seed: int) -> list[str]:
    """Draw ``count`` different ids at random: those with the smallest keyed hashes, so their order does not matter."""
    key = hashlib.sha256(f"sample {seed}".encode()).digest()
    drawn: list[tuple[int, str]] = []  # a heap; its first entry has the largest hash
    held: set[str] = set()
    for item_id in ids:
        digest = hashlib.blake2b(item_id.encode("utf-8", "surrogatepass"), key=key, digest_size=16).digest()
        entry = (-int.from_bytes(digest), item_id)
        if item_id in held or (len(drawn) == count and entry <= drawn[0]):
            continue
        if len(drawn) == count:
            held.remove(heapq.heappop(drawn)[1])
        heapq.heappush(drawn, entry)
        held.add(item_id)
    return [item_id for _, item_id in sorted(drawn, reverse=True)]


def upper_bound(bad: int, reviewed: int, confidence: float) -> float:
    """Return the one-sided Clopper-Pearson upper bound of the bad share, to 1e-12; 1 if all are bad or none was reviewed."""
    if bad >= reviewed:
        return 1.0
    low, high = bad / reviewed, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(bad, reviewed, middle) > 1 - confidence else (low, middle)
    return high


def _at_most(bad: int, reviewed: int, share: float) -> float:
    """Return P(X <= bad) of a binomial X, from the logarithms of its terms."""
    if share >= 1:
        return 0.0
    total = math.lgamma(reviewed + 1)
    return math.fsum(
        math.exp(
            total
            - math.lgamma(found + 1)
            - math.lgamma(reviewed - found + 1)
            + (found * math.log(share) if found else 0.0)
            + (reviewed - found) * math.log1p(-share)
        )
        for found in range(bad + 1)
    )
