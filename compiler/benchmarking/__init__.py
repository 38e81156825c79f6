"""Measuring models: turns, statistics, reports for machines, baselines and the gate."""
