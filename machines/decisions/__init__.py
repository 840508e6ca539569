"""Pure decisions: backoff, windows, scores, health, budgets, the order of the chain."""
