"""the names in what a trial's process tells Ray Tune after every epoch."""

SCORE = "score"
"""The val metric."""
EPOCH = "epoch"
"""The time scale: epochs, also after a restart, where Ray's own count begins anew."""
WARNINGS = "warnings"
"""What the user should know, a line each; empty where there is nothing."""
