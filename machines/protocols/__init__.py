"""Sans-IO protocol cores: bytes and inputs in, messages and effects out."""
