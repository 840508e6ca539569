"""The server: one table of handlers for all transports."""
