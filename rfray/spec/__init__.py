"""A sweep file and `--set` overrides -> a checked, typed `Sweep`, and the settings of each `Trial`."""
