"""Decisions of devpipe."""
