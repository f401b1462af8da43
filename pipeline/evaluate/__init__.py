"""Masks against true ones: ``matteline evaluate``."""
