"""Model selection, pure: the words on the wire, scoring, what is remembered, and what is answered when nobody answers."""
