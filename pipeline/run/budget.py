"""The error budget: how many items of a run may fail."""

from __future__ import annotations

from pipeline.config.job import Budget
from pipeline.errors import ErrorBudgetExceeded


def check_budget(counts: dict[str, int], budget: Budget) -> None:
    """Refuse to go on when too many items of this run failed: more than ``allowed_failed``, and more than the share.

    Raises:
        ErrorBudgetExceeded: With the numbers.
    """
    done, failed = sum(counts.values()), counts["failed"]
    if failed > budget.allowed_failed and failed / done > budget.max_failed_share:
        raise ErrorBudgetExceeded(
            f"{failed} of {done} items failed ({failed / done:.1%}); the budget is {budget.max_failed_share:.1%} "
            "(budget.max_failed_share). Finished items are kept. Fix the cause, then run the same command with --retry and the "
            "error codes"
        )
