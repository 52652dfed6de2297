"""Scales from data."""
