"""Entry points: parse, call, exit code."""
