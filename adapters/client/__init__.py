"""Client of devpipe."""
