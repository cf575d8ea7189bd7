"""The same random traffic for our capture and for OpenTelemetry's own instrumentations, and what each makes of it."""
