"""Transports: the face that all share, and the links: memory, WebSocket, HTTP, folder."""
