"""Trends of a run's samples: the last third against the first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd


class Growth(NamedTuple):
    """Medians over the first and the last third of the time."""

    first: float
    last: float

    @property
    def more(self) -> float:
        return self.last - self.first

    @property
    def share(self) -> float:
        return self.more / self.first


def flowing(samples: pd.DataFrame) -> pd.DataFrame:
    """Return the samples between the first and the last committed item, without start-up and cleanup."""
    return samples[(samples["items"] > 0) & (samples["items"] < samples["items"].max())]


def over_time(samples: pd.DataFrame, role: str, column: str) -> pd.Series:
    """Return the maximum over the role's processes by second, since processes come and go."""
    return samples[samples["role"] == role].groupby("seconds")[column].max()


def processes(samples: pd.DataFrame) -> pd.Series:
    """Return the number of processes by second."""
    return samples.groupby("seconds")["pid"].nunique()


def growth(series: pd.Series) -> Growth:
    """Compare the thirds of a series by second."""
    third = (series.index[-1] - series.index[0]) / 3
    return Growth(series[: series.index[0] + third].median(), series[series.index[-1] - third :].median())


def per_item(samples: pd.DataFrame, role: str, column: str) -> float:
    """Return the column's slope per item: the median over all pairs of samples (Theil-Sen estimator).

    The first third is left out, since caches and pools are still filling.
    """
    late = samples[(samples["role"] == role) & (samples["items"] >= samples["items"].max() / 3)]
    items, values = late["items"].to_numpy(np.float64), late[column].to_numpy(np.float64)
    one, other = np.triu_indices(len(items), 1)
    apart = items[other] != items[one]
    return float(np.median((values[other] - values[one])[apart] / (items[other] - items[one])[apart]))
