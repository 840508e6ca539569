"""Everything that awaits: transports, client, server, command line, on anyio."""
