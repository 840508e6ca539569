"""Faces for programs without an event loop: each has a loop in a thread of its own."""
