"""The endpoint of a section asks as the section says, and messages name the section's fields."""

from __future__ import annotations

import pytest

from sage_jax.config import FactsConfig
from sage_jax.endpoint.budget import BudgetUsedUp
from sage_jax.endpoint.chat import ChatRequest, Message
from sage_jax.endpoint.client import Unanswered
from sage_jax.errors import UserError
from sage_jax.stages.asked_endpoint import budget_of, key_of, open_endpoint
from tests.support.endpoint_server import Served, chat, served

REQUEST = ChatRequest("m", (Message("user", "Hello"),))


def test_address_key_retries_and_budget_are_those_of_the_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", "sk-secret-1")
    with served(lambda body, number: chat("Yes.", total_tokens=4) if number else Served(closed=True)) as server:
        options = FactsConfig(
            base_url=server.url, model="m", api_key_env="OWN_KEY", retries=0, max_requests=3, max_total_tokens=8
        )
        endpoint = open_endpoint(options, "facts", budget_of(options, "facts"))
        with pytest.raises(Unanswered, match="1 times asked"):
            endpoint.ask(REQUEST)
        assert endpoint.ask(REQUEST).text == endpoint.ask(REQUEST).text == "Yes."
        with pytest.raises(BudgetUsedUp, match=r"facts\.max_requests = 3"):
            endpoint.ask(REQUEST)
        assert set(server.keys) == {"Bearer sk-secret-1"}
        fewer = budget_of(FactsConfig(max_total_tokens=2), "facts")
        open_endpoint(options, "facts", fewer).ask(REQUEST)
        with pytest.raises(BudgetUsedUp, match=r"facts\.max_total_tokens = 2"):
            open_endpoint(options, "facts", fewer).ask(REQUEST)


def test_a_key_that_is_not_there_names_the_field() -> None:
    with pytest.raises(UserError, match=r"facts\.api_key_env names an environment variable that is not set"):
        key_of(FactsConfig(api_key_env="NO_SUCH_KEY_AT_ALL"), "facts")
