"""Transports of devpipe."""
