"""A run folder in, its ensemble, its leaderboard and what can be concluded from them out."""
