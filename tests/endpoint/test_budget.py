"""The budget and the key."""

from __future__ import annotations

import threading

import pytest

from sage_jax.endpoint.budget import Budget, BudgetUsedUp, read_key
from sage_jax.errors import UserError


def test_requests_are_counted_across_threads_and_bounded() -> None:
    budget, refused = Budget(max_requests=50, section="judge"), []

    def take() -> None:
        for _ in range(10):
            try:
                budget.take_request()
            except BudgetUsedUp as error:
                refused.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.requests == 50 and len(refused) == 30
    assert set(refused) == {"the budget is used up: judge.max_requests = 50"}


def test_tokens_are_bounded_once_they_are_known() -> None:
    budget = Budget(max_total_tokens=100, section="judge")
    for spent in (60, 60):
        budget.take_request()
        budget.spend(spent)
    with pytest.raises(BudgetUsedUp, match="the budget is used up: judge.max_total_tokens = 100"):
        budget.take_request()


def test_tokens_that_nobody_counts_cannot_be_bounded() -> None:
    free, bound = Budget(), Budget(max_total_tokens=100, section="judge")
    for budget in (free, bound):
        budget.take_request()
        budget.spend(None)
    free.take_request()
    with pytest.raises(UserError, match="judge.max_total_tokens = 100 cannot be kept: .* no usage.total_tokens"):
        bound.take_request()


def test_a_key_comes_from_the_environment_and_is_quoted_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_key("", field="judge.api_key_env") == ""
    monkeypatch.setenv("JUDGE_KEY", " sk-12 \n")
    assert read_key("JUDGE_KEY", field="judge.api_key_env") == "sk-12"
    for content, said in (("", "is not set"), ("sk-1 2", "spaces"), ("sk-1\nHost: x", "spaces"), ("sk-ü", "other")):
        monkeypatch.setenv("JUDGE_KEY", content)
        with pytest.raises(UserError, match=f"judge.api_key_env.*{said}") as raised:
            read_key("JUDGE_KEY", field="judge.api_key_env")
        assert "sk-" not in str(raised.value) and "JUDGE_KEY" not in str(raised.value)
