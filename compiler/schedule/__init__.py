"""Schedules: steps that reshape a loop nest and keep what it computes."""
