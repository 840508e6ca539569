"""Protocols of devpipe."""
