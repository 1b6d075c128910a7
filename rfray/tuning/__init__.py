"""A checked sweep and a connected Ray -> trained trials in the run folder: proposed, stopped, recorded, resumed."""
