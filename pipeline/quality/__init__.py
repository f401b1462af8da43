"""From signals to one number with its reasons."""
