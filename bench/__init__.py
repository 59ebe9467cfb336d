"""Measurements, side by side with a peer where one exists. Nothing in here is a test."""
