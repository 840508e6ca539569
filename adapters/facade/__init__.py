"""devpipe: one message pipe over several transports."""
