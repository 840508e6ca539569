"""Server of devpipe."""
