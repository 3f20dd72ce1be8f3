"""The errors that nasenv raises on purpose; each message is one line that says what came and how to mend it."""


class InputError(ValueError):
    """What a user gave cannot be used; the command line prints the message and exits with 2."""


class BudgetExhausted(Exception):
    """The search is over: its budget is used up, or its agent only repeats itself."""


class AgentError(InputError):
    """An agent broke its contract; the message names the agent."""
