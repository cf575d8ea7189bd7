"""Other tools for the same purpose, each in an environment of its own."""
