"""Adapters of devpipe."""
