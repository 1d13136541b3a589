"""Slot and queue policy of the engine, pure."""
