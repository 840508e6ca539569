"""Charts of devpipe."""
