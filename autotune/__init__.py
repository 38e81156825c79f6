"""Search for better schedules; empty so far: recipes choose by analysis."""
