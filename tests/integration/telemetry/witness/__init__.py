"""Apps as others write them, and a witness of their queries that knows nothing of telemetry."""
