"""Runnable examples; nothing here is part of the installed library."""
