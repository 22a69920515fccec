"""The endpoint that a stage asks, as its section of the config has it."""

from __future__ import annotations

from sage_jax.config.endpoint import EndpointConfig
from sage_jax.endpoint.budget import Budget, read_key
from sage_jax.endpoint.client import Endpoint
from sage_jax.process import signals


def budget_of(options: EndpointConfig, section: str) -> Budget:
    """What one start of a stage may spend."""
    return Budget(options.max_requests, options.max_total_tokens, section=section)


def key_of(options: EndpointConfig, section: str) -> str:
    """The key that the environment holds; "" without one.

    Raises:
      UserError: The variable is not set, or holds no key; the message names the field.
    """
    return read_key(options.api_key_env, field=f"{section}.api_key_env")


def open_endpoint(options: EndpointConfig, section: str, budget: Budget) -> Endpoint:
    """The endpoint; no connection is opened, and a signal stops its requests.

    Args:
      section: Section of the config, for messages.

    Raises:
      UserError: As `key_of`.
    """
    return Endpoint(
        options.base_url,
        api_key=key_of(options, section),
        timeout_seconds=options.timeout_seconds,
        retries=options.retries,
        budget=budget,
        stop_requested=signals.requested,
    )
