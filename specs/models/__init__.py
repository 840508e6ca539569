"""Independent reference models: small, slow, obvious, and importing nothing of the machines."""
