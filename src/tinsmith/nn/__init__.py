"""Layers. Nothing here imports the engine."""
