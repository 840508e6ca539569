"""Specs of devpipe."""
