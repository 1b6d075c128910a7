"""the names in what a trial's process tells Ray Tune after every epoch."""

SCORE = "score"
"""The select metric."""
EPOCH = "epoch"
"""The time scale: epochs, also after a restart, where Ray's own count begins anew."""
DAMAGE = "damage"
"""Which files were found damaged, a line each; empty where none was."""
