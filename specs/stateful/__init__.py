"""Hypothesis state machines: each core against its model."""
