"""Bytes and tables: where images come from, where results go, what is done. No pixels, no Ray."""
