"""The pure cores: no clock, no I/O, no randomness, no logging, no event loop."""
