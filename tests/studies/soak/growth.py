"""What a watched run's numbers did over time: its last third against its first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd


class Growth(NamedTuple):
    """Medians over the moments of a third of the time."""

    first: float
    last: float

    @property
    def more(self) -> float:
        return self.last - self.first

    @property
    def share(self) -> float:
        return self.more / self.first


def flowing(samples: pd.DataFrame) -> pd.DataFrame:
    """From the first committed item to the last one: without the start and the tidying up, which differ on purpose."""
    return samples[(samples["items"] > 0) & (samples["items"] < samples["items"].max())]


def over_time(samples: pd.DataFrame, role: str, column: str) -> pd.Series:
    """By second: the largest of the role's processes, for processes come and go."""
    return samples[samples["role"] == role].groupby("seconds")[column].max()


def processes(samples: pd.DataFrame) -> pd.Series:
    """By second: how many there are."""
    return samples.groupby("seconds")["pid"].nunique()


def growth(series: pd.Series) -> Growth:
    """Of a number by second."""
    third = (series.index[-1] - series.index[0]) / 3
    return Growth(series[: series.index[0] + third].median(), series[series.index[-1] - third :].median())


def an_item(samples: pd.DataFrame, role: str, column: str) -> float:
    """The column's slope over the items done: the median over all pairs of moments of the last two thirds (Theil, Sen).

    In the first third caches and pools are still filling.
    """
    late = samples[(samples["role"] == role) & (samples["items"] >= samples["items"].max() / 3)]
    items, values = late["items"].to_numpy(np.float64), late[column].to_numpy(np.float64)
    one, other = np.triu_indices(len(items), 1)
    apart = items[other] != items[one]
    return float(np.median((values[other] - values[one])[apart] / (items[other] - items[one])[apart]))
