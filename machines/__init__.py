"""Machines of devpipe."""
