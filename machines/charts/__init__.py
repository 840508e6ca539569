"""The declared state machines, one file each."""
