"""Profiles for people and for other tools: where kernels come from, traces, one page of HTML."""
