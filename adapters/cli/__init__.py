"""Cli of devpipe."""
