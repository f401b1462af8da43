"""The limits at which a run stops: too many failed items, or too long without a finished one."""

from __future__ import annotations

import time

from pipeline.config.job import Budget
from pipeline.errors import ErrorBudgetExceeded, Stopped


def exceeds(failed: int, done: int, budget: Budget) -> bool:
    """Return whether more items failed than the budget allows: more than ``allowed_failed``, and more than the share."""
    return failed > budget.allowed_failed and failed / done > budget.max_failed_share


def check_budget(counts: dict[str, int], budget: Budget) -> None:
    """Refuse to go on when more items of this run failed than the budget allows.

    Raises:
        ErrorBudgetExceeded: With the numbers.
    """
    done, failed = sum(counts.values()), counts["failed"]
    if exceeds(failed, done, budget):
        raise ErrorBudgetExceeded(
            f"{failed} of {done} items failed ({failed / done:.1%}); the budget is {budget.max_failed_share:.1%} "
            "(budget.max_failed_share). Finished items are kept. Fix the cause, then run the same command with --retry and the "
            "error codes"
        )


def deadline_of(budget: Budget) -> float | None:
    """Return the time, in seconds since 1970, from which a run that starts now begins no more items; None for none."""
    return None if budget.deadline_s is None else time.time() + budget.deadline_s


def has_passed(deadline: float | None) -> bool:
    """Return whether a deadline has passed, so that no more items are begun."""
    return deadline is not None and time.time() >= deadline


def deadline_passed(left: int) -> Stopped:
    """Return the error of a run whose deadline passed before all items were begun."""
    return Stopped(f"the deadline passed with {left} items left; run the same command again to continue")


def no_progress(seconds: float) -> Stopped:
    """Return the error of a run that finished nothing for ``compute.no_progress_s``."""
    return Stopped(
        f"the run finished nothing for {seconds:g} s and was stopped; run the same command again to continue. If the model is "
        "that slow on this machine, raise compute.no_progress_s"
    )
