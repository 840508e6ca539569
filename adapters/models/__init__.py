"""Model selection over a pipe: the selector, the server side behind it, and the files and stores they read."""
